"""Show the console at work: nodes of a topology, a study's strategies on them, and traffic; and take its picture.

    python scripts/console_demo.py study-digits                                     look at it until Ctrl-C
    python scripts/console_demo.py study-digits --picture docs/images/console.png   (make console-picture)

The nodes are processes under the limits of their tiers, joined by shaped links; the strategies are those of a study
that was run (``make study``), pushed to the nodes as any deployment is; the requests are real and so is every figure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tierwise._errors import TierwiseError
from tierwise.artifact import Artifact, open_artifact
from tierwise.measure import usable_cpus
from tierwise.runtime import Pipeline, Placed, Share, deploy
from tierwise.study import Strategy, load_study
from tierwise.testbed import Testbed, open_testbed
from tierwise.topology import load

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main() -> None:
    """Parse the arguments, start everything, and end it again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--topology", default="wifi-lte")
    parser.add_argument("--strategies", nargs="+", default=["sptq+partition@mobile|edge", "identity@cloud"])
    parser.add_argument("--every", type=float, default=0.04, help="seconds between two requests of the first strategy")
    parser.add_argument("--seconds", type=float, default=75.0, help="how long to run before the picture")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    # Ending by SIGTERM ends the nodes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-demo-")))
        topology = load(arguments.topology)
        bed = stack.enter_context(
            open_testbed(topology, workdir=folder / "logs", machine_cpus=usable_cpus(), verify=False, report=print)
        )
        for i, (strategy, artifact) in enumerate(_strategies(arguments.study, arguments.strategies)):
            deploy(artifact, strategy.id, _placement(bed, strategy, artifact))
            # The first is the busy one; the others are asked now and then.
            stack.enter_context(_traffic(bed, strategy.id, artifact, arguments.every * (1 if i == 0 else 12)))
        address = stack.enter_context(_console(bed, folder))
        print(f"the console is on {address}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(arguments.seconds if arguments.picture else 1e6)
        if arguments.picture:
            _take(address, arguments.picture, arguments.width, arguments.dark)


def _strategies(study: Path, wanted: Sequence[str]) -> Iterator[tuple[Strategy, Artifact]]:
    data = load_study(study)
    for name in wanted:
        strategy = data.strategy(name)
        yield strategy, open_artifact(study / data.variants[strategy.variant].directory)


def _placement(bed: Testbed, strategy: Strategy, artifact: Artifact) -> list[Placed]:
    """Each tier's share, forwarding over the shaped links."""
    shares, done, count = [], 0, len(artifact.manifest.segments)
    for position, tier in enumerate(strategy.path):
        last = position == len(strategy.path) - 1
        end = count if last else done + strategy.segments.count(tier)
        forward = None if last else bed.forward(tier, strategy.path[position + 1])
        shares.append(Placed(control=bed.control[tier], share=Share(segments=(done, end), forward=forward)))
        done = end
    return shares


@contextlib.contextmanager
def _traffic(bed: Testbed, model: str, artifact: Artifact, every_s: float) -> Iterator[None]:
    """Requests at a steady rate from the device's application, of blank pictures in the model's encoding."""
    ended = threading.Event()
    encoding = artifact.manifest.input

    def ask() -> None:
        with Pipeline(bed.control[bed.topology.tiers[0].name], model, encoding) as pipeline:
            items = _blank(encoding)
            while not ended.wait(every_s):
                try:
                    pipeline.infer(items)
                except TierwiseError as error:
                    print(error, flush=True)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _blank(encoding: object) -> list[object]:
    import io

    import numpy as np
    from PIL import Image

    from tierwise.artifact import ImageInput

    if not isinstance(encoding, ImageInput):
        sys.exit("the demo sends pictures; take a study of a task that has them")
    pixels = np.zeros((encoding.height, encoding.width, encoding.channels), np.uint8)
    if encoding.encoding == "uint8":
        return [pixels]
    stored = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stored, "JPEG")
    return [stored.getvalue()]


@contextlib.contextmanager
def _console(bed: Testbed, folder: Path) -> Iterator[str]:
    """A console of the testbed's nodes, as a process; yields its address."""
    tiers = [{"address": bed.control[tier.name], **msgspec.to_builtins(tier)} for tier in bed.topology.tiers]
    tiers = [{**tier, "address": bed.control[tier["name"]]} for tier in tiers]
    told = {
        "name": f"digits over {bed.topology.name}",
        "tiers": tiers,
        "links": msgspec.to_builtins(bed.topology.links),
    }
    path = folder / "watched.toml"
    path.write_bytes(msgspec.toml.encode(_without_none(told)))
    command = [sys.executable, "-m", "tierwise", "console", "--topology", str(path), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                sys.exit("the console did not start")
            yield found[0]
        finally:
            process.terminate()


def _without_none(value: object) -> object:
    """TOML has no word for nothing."""
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def _take(address: str, picture: Path, width: int, dark: bool) -> None:
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of {', '.join(_BROWSERS)} is installed")
    with sync_playwright() as play:
        window = play.chromium.launch(executable_path=browser, args=_FLAGS)
        scheme = "dark" if dark else "light"
        page = window.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        page.wait_for_timeout(1500)
        page.screenshot(path=picture, full_page=True)
        window.close()


if __name__ == "__main__":
    main()
