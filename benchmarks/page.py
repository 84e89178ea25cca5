"""How soon the report page of a large search can be read, in a headless Chromium, the file opened as from a mail.

Pages take turns, since the machine is shared; a column is the median of milliseconds since the page was asked for.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks.arguments import positive
from dashboards.report import report_page
from tests.dashboards import documents

#: Notes when each figure has been drawn and shown: plotly's own function, and the frame after it.
_WATCH = """
window.shown = [];
let drawer;
Object.defineProperty(window, "Plotly", {configurable: true, get: () => drawer, set: value => {
  const draw = value.newPlot;
  drawer = value;
  drawer.newPlot = async (...args) => {
    const drawn = await draw(...args);
    requestAnimationFrame(() => setTimeout(() => window.shown.push(performance.now())));
    return drawn;
  };
}});
"""
_FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_TO_THE_END = """async () => {
  for (const figure of document.querySelectorAll(".figure")) {
    figure.scrollIntoView();
    while (!figure.querySelector(".main-svg")) await new Promise(requestAnimationFrame);
  }
}"""


def opened(browser: Browser, page: Path) -> dict[str, float]:
    """Milliseconds to the first text, to the front's figure, and to all figures as a reader scrolls to them."""
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.add_init_script(_WATCH)
    tab.goto(page.as_uri())
    tab.wait_for_function(f"window.shown.length && {_FIRST_PAINT}")
    first_text: float = tab.evaluate(_FIRST_PAINT)
    tab.evaluate(_TO_THE_END)
    figures = tab.locator(".figure").count()
    tab.wait_for_function(f"window.shown.length === {figures}")
    shown: list[float] = tab.evaluate("window.shown")
    tab.close()
    return {"first text": first_text, "front drawn": shown[0], "all drawn": shown[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="written by `report`; one of 1,000 trials is made without")
    parser.add_argument("--times", type=positive, default=15, help="that each page is opened")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages = [page.resolve() for page in given.pages] or [Path(folder) / "report.html"]
        if not given.pages:
            pages[0].write_text(report_page(documents.large()), "utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opened(browser, pages[0])  # the browser's own start
        found: dict[Path, list[dict[str, float]]] = {page: [] for page in pages}
        for _ in range(given.times):
            for page in pages:
                found[page].append(opened(browser, page))
        browser.close()
        for page, times in found.items():
            medians = {name: statistics.median(each[name] for each in times) for name in times[0]}
            text = ", ".join(f"{name} {value:,.0f} ms" for name, value in medians.items())
            print(f"{page.name} ({page.stat().st_size / 1e6:.2f} MB, opened {given.times} times): {text}")


if __name__ == "__main__":
    main()
