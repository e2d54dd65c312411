"""A headless Chromium that is not let onto any network, and what a page must be like in it."""

import contextlib
import os
import shutil
from types import SimpleNamespace

import pytest

_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")

# Texts that are cut off, or hang over what holds them, with a few words on each.
CLIPPED = """() => {
  const found = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found.push("the page is wider than the window");
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true });
  for (const svg of document.querySelectorAll("figure.chart svg")) {
    const frame = svg.getBoundingClientRect();
    const labels = [...svg.querySelectorAll("text")].filter(isShown);
    for (const label of labels) {
      const box = label.getBoundingClientRect();
      const isOut = box.left < frame.left - 0.5 || box.right > frame.right + 0.5
        || box.top < frame.top - 2 || box.bottom > frame.bottom + 2;
      if (isOut) found.push(`label outside: ${label.textContent}`);
      if (parseFloat(getComputedStyle(label).fontSize) * frame.width / svg.viewBox.baseVal.width < 9.5)
        found.push(`label too small: ${label.textContent}`);
    }
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const holder = node.parentElement;
    if (!node.textContent.trim() || !isShown(holder)) continue;
    // What scrolls on its own may be wider than the window, and hints of bars are no part of the picture.
    if (holder.closest(".scroll, pre, svg, script, style")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      const block = holder.closest("p, li, td, th, h1, h2, h3, figcaption, summary, div, body").getBoundingClientRect();
      if (box.left < -0.5 || box.right > width + 0.5 || box.right > block.right + 1)
        found.push(`text cut off: ${node.textContent.trim().slice(0, 40)}`);
    }
  }
  return found;
}"""

# Texts whose colour is too close to what is behind them (WCAG 2, level AA).
FAINT = """() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let it = element; it; it = it.parentElement) {
      const color = parse(getComputedStyle(it).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !element.checkVisibility() || element.closest("script, style, title")) continue;
    const isLabel = element.tagName === "text";
    const style = getComputedStyle(element);
    const [a, b] = [luminance(parse(isLabel ? style.fill : style.color)), luminance(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(1)}: ${element.textContent.trim().slice(0, 40)}`);
  }
  return found;
}"""


@contextlib.contextmanager
def chromium():
    """Debian's Chromium. Without it, the test is skipped, or fails if CLDCTL_REQUIRE_CHROMIUM=1."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CLDCTL_REQUIRE_CHROMIUM") == "1":
            pytest.fail("CLDCTL_REQUIRE_CHROMIUM=1, and there is no chromium on PATH. Install it.")
        pytest.skip("there is no chromium on PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser, file, *, width=1280, scheme="light"):
    """A file in a window of its own, which can reach nothing else.

    Yields the page, what it complained of, and what it asked for besides itself.
    """
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    result = SimpleNamespace(page=context.new_page(), complaints=[], requests=[])

    def route(it):
        if it.request.url == file.as_uri():
            it.continue_()
        else:
            result.requests.append(it.request.url)
            it.abort()

    # Pictures inside of the page are no requests.
    context.route(lambda url: not url.startswith("data:"), route)
    result.page.on("console", lambda message: result.complaints.append(message.text))
    result.page.on("pageerror", lambda error: result.complaints.append(str(error)))
    try:
        result.page.goto(file.as_uri())
        yield result
    finally:
        context.close()
