"""The page as a browser shows it, over real nodes; skipped where no browser is installed."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tierwise._errors import RemoteError
from tierwise.runtime import Placed, Share, deploy, undeploy
from tierwise.wire import InferenceClient

_HOSTILE = "<img src=x onerror=alert(1)>"


@contextlib.contextmanager
def _opened(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """The page in a new tab, with everything it said and asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(20_000)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        yield page, said, asked
    finally:
        page.close()


def _until(page: Any, condition: str) -> None:
    """Wait for a condition on the page; from outside, because its policy lets nobody evaluate text inside it."""
    give_up_s = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < give_up_s, condition
        page.wait_for_timeout(50)


@contextlib.contextmanager
def _traffic(address: str, model: str) -> Iterator[None]:
    ended = threading.Event()

    def ask() -> None:
        with InferenceClient(address) as client:
            while not ended.wait(0.02):
                with contextlib.suppress(RemoteError):
                    client.infer(model, {"x": np.ones((1, 4), np.float32)})

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def placed(start_node, start, artifact):
    """Two nodes that share the model ``digits``, and a console that watches them."""
    edge, mobile = start_node("edge"), start_node("mobile")
    placement = [
        Placed(control=mobile.address, share=Share(segments=(0, 1), forward=edge.address)),
        Placed(control=edge.address, share=Share(segments=(1, 2))),
    ]
    deploy(artifact, "digits", placement)
    watched = ("--node", mobile.address, "--node", edge.address)
    console = start("console", *watched, "--listen", "127.0.0.1:0", "--every", "0.2")
    return mobile, edge, console, placement


def test_it_is_live_shows_what_happens_and_speaks_to_nobody_else(browser, placed) -> None:
    mobile, edge, console, placement = placed
    with _opened(browser, console.address) as (page, said, asked):
        node = page.locator(".node").first
        chain = page.locator(".chain")
        assert chain.locator(".pill").inner_text().endswith("no traffic")
        assert "No requests lately" in chain.inner_text()
        _until(page, "document.querySelector('.node .figure span').textContent === '0'")
        with _traffic(mobile.address, "digits"):
            page.wait_for_selector(".chain[data-active] .pill[data-state=good]")
            page.wait_for_selector(".link[data-state=up]")
            _until(page, "parseFloat(document.querySelector('.node .figure span').textContent) > 2")
            first = node.locator("dd").nth(2).inner_text()
            _until(page, f"document.querySelectorAll('.node dd')[2].textContent !== {json.dumps(first)}")
            assert "digits answers over mobile \u2192 edge" in page.locator("#verdict").inner_text()
            assert page.locator(".chain .spark path.p50").get_attribute("d")
            assert page.locator(".chain .bar i").count() >= 4
            assert page.locator(".chain .stages").is_visible()
            edge.process.kill()
            page.wait_for_selector(".node[data-state=down]", timeout=5000)
            page.wait_for_selector(".link[data-state=down]")
            assert page.locator(".node[data-state=down] h3").inner_text() == "edge"
            assert page.locator(".chain .pill").inner_text().endswith("broken")
            assert page.locator("#announcement").inner_text() == "edge is down"
            _until(page, "document.querySelector('#refusals tbody').textContent.includes('unavailable')")
        undeploy("digits", placement[:1])
        _until(page, "document.querySelectorAll('.chain').length === 1")
        assert said == []
        assert {url.removeprefix(console.address) for url in asked} == {"", "console.css", "console.js", "events"}


def test_names_of_hostile_nodes_are_text_and_no_more(browser, start_node, start, artifact) -> None:
    node = start_node(_HOSTILE)
    deploy(artifact, "m", [Placed(control=node.address, share=Share(label=f"{_HOSTILE}<script>alert(2)</script>"))])
    console = start("console", "--node", node.address, "--listen", "127.0.0.1:0", "--every", "0.2")
    with _opened(browser, console.address) as (page, said, _):
        page.wait_for_selector(".chain")
        assert page.locator(".node h3").inner_text() == _HOSTILE
        assert "<script>" in page.locator(".chain").inner_text()
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 1
        page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
                      " document.body.append(s); }")  # fmt: skip
        assert page.evaluate("window.ran") is None
        assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'out', () => 'held')") == "held"
        assert all("Content Security Policy" in line for line in said)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
def test_it_fits_the_window_and_can_be_read(browser, placed, width, scheme) -> None:
    mobile, _, console, _ = placed
    with _traffic(mobile.address, "digits"), _opened(browser, console.address, width, scheme) as (page, said, _):
        page.wait_for_selector(".chain[data-active] .bar i")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in (".node", ".link", ".chain", ".spark", ".bar"):
            box = page.locator(selector).first.bounding_box()
            assert box["width"] > 60, selector
            assert box["x"] + box["width"] <= width, selector
        assert _low_contrast(page) == []
        # Whoever reads by ear is told what the pictures say.
        assert all(page.locator("[role=img]").nth(i).get_attribute("aria-label") for i in range(2))
        assert page.locator("th:not([scope])").count() == 0
        assert page.locator(".tiers[role=list] > [role=listitem]").count() == 3
        assert said == []


def test_no_model_and_a_console_that_ended_are_said(browser, start_node, start) -> None:
    node = start_node("edge")
    console = start("console", "--node", node.address, "--listen", "127.0.0.1:0", "--every", "0.2")
    with _opened(browser, console.address) as (page, _, _):
        assert page.locator("#no-deployments").is_visible()
        assert "No model is loaded" in page.locator("#verdict").inner_text()
        told_s = time.monotonic()
        console.process.terminate()
        console.process.wait(10)
        page.wait_for_selector("html.stale", timeout=10_000 - 1000 * (time.monotonic() - told_s))
        assert "does not answer" in page.locator("#live").inner_text()


def _low_contrast(page: Any) -> list[str]:
    """Texts whose contrast to what lies behind them is below 4.5 (WCAG 2.2, 1.4.3)."""
    found: list[str] = page.evaluate("""() => {
      const parse = (text) => text.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
          const colour = parse(getComputedStyle(at).backgroundColor);
          if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
      };
      const low = [];
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
        const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) low.push(`${element.className}: ${walker.currentNode.textContent} ${contrast.toFixed(2)}`);
      }
      return low;
    }""")
    return found
