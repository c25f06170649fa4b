"""A real browser that looks at a page, and what it finds there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from playwright.sync_api import Browser, Page, sync_playwright

_NO_SANDBOX: Final = ["--no-sandbox", "--disable-dev-shm-usage"]
"""Tests run as root, in containers."""
PATIENCE_MS: Final = 120_000

CONTRASTS: Final = """
() => {
  const parse = (text) => {
    const numbers = text.match(/[-\\d.e]+/g).map(Number);
    const most = text.startsWith("color(") ? 255 : 1;
    return [...numbers.slice(0, 3).map((v) => most * v), numbers[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = (rgb) => {
    const linear = (s) => (s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      layers.push(parse(getComputedStyle(at).backgroundColor));
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    const unseen = !node.checkVisibility() || node.closest(":disabled, noscript, script");
    if (!text.textContent.trim() || unseen) continue;
    const style = getComputedStyle(node);
    const ink = parse(node.closest("svg") ? style.fill : style.color);
    const back = background(node);
    const [light, dark] = [luminance(over(ink, back)), luminance(back)].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), text.textContent.trim().slice(0, 40)]);
  }
  return found;
}
"""
"""Contrast of every text that is seen, by WCAG 2.2, with its beginning."""

NAMELESS: Final = """
() => [...document.querySelectorAll("button, input, a, summary, [tabindex='0']")]
  .filter((node) => !(node.textContent.trim() || node.ariaLabel || node.labels?.length
    || node.getAttribute("aria-labelledby")))
  .map((node) => node.outerHTML.slice(0, 80))
"""
"""What can be worked with and has no name for those who do not see it."""

HATCHED: Final = """
([top, left, rows, cols, sceneRows, sceneCols]) => {
  const canvas = document.getElementById("canvas");
  const style = getComputedStyle(canvas);
  const copy = Object.assign(document.createElement("canvas"),
    { width: canvas.width, height: canvas.height });
  const probe = copy.getContext("2d", { willReadFrequently: true });
  const rgb = (name) => {
    probe.fillStyle = style.getPropertyValue(name).trim();
    probe.fillRect(0, 0, 1, 1);
    return probe.getImageData(0, 0, 1, 1).data;
  };
  const [one, other] = [rgb("--hatch"), rgb("--hatch-line")];
  const factor = Math.min(canvas.width / sceneCols, canvas.height / sceneRows);
  const x = (canvas.width - sceneCols * factor) / 2;
  const y = (canvas.height - sceneRows * factor) / 2;
  probe.drawImage(canvas, 0, 0);
  const part = probe.getImageData(
    x + (left + 0.1 * cols) * factor, y + (top + 0.1 * rows) * factor,
    0.8 * cols * factor, 0.8 * rows * factor).data;
  let inside = 0;
  for (let i = 0; i < part.length; i += 4) {
    inside += [0, 1, 2].every((c) => part[i + c] >= Math.min(one[c], other[c]) - 3
      && part[i + c] <= Math.max(one[c], other[c]) + 3);
  }
  return inside / (part.length / 4) > 0.99;
}
"""
"""Whether a part of the scene, not zoomed, has the hatch's colors and no others."""


class Look:
    """A page in a browser.

    Attributes:
        page: It.
        problems: Errors and warnings in the console, errors of scripts, and answers that are
            errors.
        asked: Every address that was asked for.
    """

    def __init__(self, page: Page) -> None:
        self.page, self.problems, self.asked = page, list[str](), list[str]()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("response", self._judge)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text}")

    def _judge(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status} {response.url}")

    def until(self, expression: str, argument: Any = None) -> None:
        """Wait until an expression of the page is true."""
        self.page.wait_for_function(expression, arg=argument, polling=50)

    def text(self, selector: str) -> str:
        """What stands there."""
        return self.page.inner_text(selector)

    def table(self, selector: str) -> list[list[str]]:
        """The cells of a table's body."""
        script = "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
        cells: list[list[str]] = self.page.eval_on_selector_all(f"{selector} tr", script)
        return cells


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """Start a browser without a window."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=_NO_SANDBOX)
        try:
            yield started
        finally:
            started.close()


def look_at(
    started: Browser, url: str, *, width: int = 1366, height: int = 768, scheme: Any = "light"
) -> Look:
    """Open a page in a profile of its own."""
    context = started.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    look = Look(context.new_page())
    look.page.goto(url)
    return look
