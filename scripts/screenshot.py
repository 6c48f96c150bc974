"""Take the README's picture: the top of a report, as headless Chromium shows it.

python scripts/screenshot.py study-digits/report.html docs/images/report.png
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main() -> None:
    """Parse the arguments and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--height", type=int, default=2190, help="pixels from the top")
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of {', '.join(_BROWSERS)} is installed")
    with sync_playwright() as play:
        window = play.chromium.launch(executable_path=browser, args=_FLAGS)
        page = window.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light")
        page.goto(arguments.page.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")  # set when every chart is drawn
        clip = {"x": 0, "y": 0, "width": 1180, "height": arguments.height}
        page.screenshot(path=arguments.picture, full_page=True, clip=clip)
        window.close()


if __name__ == "__main__":
    main()
