"""What every test shares: where the real data lie, one thread for every library, and one browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before NumPy or torch start their pools: two cores shared with node processes do not bear more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if "TIERWISE_DATA" not in os.environ and _BESIDE.is_dir():
    os.environ["TIERWISE_DATA"] = str(_BESIDE)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; skips where there is none."""
    root = os.environ.get("TIERWISE_DATA")
    if root is None:
        pytest.skip("TIERWISE_DATA is not set: this test needs the real data it names")
    return Path(root)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where there is none. One for all rooms: a process can drive one Playwright at a time."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no browser: install one with `apt-get install chromium`")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=flags)
        yield running
        running.close()
