"""Report and comparison pages as a reader opens them: wide and on a phone, light and dark."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from dashboards.embedding import FIGURE_CSS, figure_html, plotly_library
from dashboards.figures import front_figure
from dashboards.report import comparison_page, report_page
from tests.dashboards import documents

PAGES = {
    "report": lambda: report_page(documents.document()),
    "empty": lambda: report_page(documents.empty()),
    "thousand": lambda: report_page(documents.large()),
    "comparison": lambda: comparison_page(documents.comparison()),
}
DRAWN = "[...document.querySelectorAll('.figure')].filter(each => each.querySelector('.main-svg')).length"


def opened(browser: Any, path: Path, *, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page with its first figure drawn, and what went wrong: requests to anywhere, errors, warnings."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url == path.as_uri() else wrong.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN)
    return page, wrong


def read_to_the_end(page: Any) -> None:
    figures = page.locator(".figure")
    for i in range(figures.count()):
        # Playwright's own scrolling waits for frames that hold still, and figures are drawn meanwhile.
        figures.nth(i).evaluate("each => each.scrollIntoView()")
        figures.nth(i).locator(".main-svg").first.wait_for()


@pytest.fixture(params=PAGES)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.html"
    path.write_text(PAGES[request.param](), "utf-8")
    return path


def test_pages_stay_small(written: Path) -> None:
    assert written.stat().st_size < 2_000_000


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (380, "dark")])
def test_a_page_is_whole_alone_and_readable(
    browser: Any, written: Path, screenshots: Path, width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page, wrong = opened(browser, written, width=width, scheme=scheme)
    read_to_the_end(page)
    assert wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    # WCAG 2 AA: contrast, names of what is drawn, structure.
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]})
    assert found.violations_count == 0, found.generate_report()
    page.screenshot(path=screenshots / f"{written.stem}-{width}-{scheme}.png")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["report", "comparison"])
def test_all_words_of_a_figure_have_the_ink_of_the_page(browser: Any, tmp_path: Path, page: str, scheme: str) -> None:
    """Ticks, titles, legends, colour bars: axe does not look into drawings. Cells of a map have their own."""
    path = tmp_path / "page.html"
    path.write_text(PAGES[page](), "utf-8")
    shown, _ = opened(browser, path, scheme=scheme)
    read_to_the_end(shown)
    found = shown.evaluate(
        """[...document.querySelectorAll('.figure svg text')].filter(each => !each.closest('.heatmaplayer'))
        .filter(each => getComputedStyle(each).fill !== getComputedStyle(document.body).color)
        .map(each => each.textContent)"""
    )
    assert found == []
    shown.close()


def test_a_figure_in_a_dark_notebook_has_the_ink_of_the_notebook(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    cell = f"<style>{FIGURE_CSS}</style>{figure_html(front_figure(documents.document()), full_page=False)}"
    path.write_text(f'<body style="background: #111; color: rgb(221, 221, 221)">{cell}{plotly_library()}', "utf-8")
    page, _ = opened(browser, path)
    inks = "[...document.querySelectorAll('.figure svg text')].map(each => getComputedStyle(each).fill)"
    assert set(page.evaluate(inks)) == {"rgb(221, 221, 221)"}
    page.close()


@pytest.mark.parametrize("width", [1280, 380])
@pytest.mark.parametrize("knee", ["faster", "slower"])
@pytest.mark.parametrize("apart", [0.0, 0.003, 0.01])
def test_names_of_neighbours_on_the_front_do_not_meet(
    browser: Any, tmp_path: Path, apart: float, knee: str, width: int
) -> None:
    points = [
        documents.point(7, "o_proj r8", 0.66, 1.2, front=True),
        documents.point(2, "down_proj+o_proj r8", 0.66 + apart, 1.2 + apart, front=True),
        documents.point(4, "down_proj r8", 0.3, 1.1),
    ]
    first, second = (7, 2) if knee == "faster" else (2, 7)
    document = documents.document(points=points, knee={"trial": first}, recommended={"trial": second, "why": "so"})
    path = tmp_path / "front.html"
    path.write_text(figure_html(front_figure(document), full_page=True), "utf-8")
    page, _ = opened(browser, path, width=width)
    texts = [page.locator(".annotation-text", has_text=name).bounding_box() for name in ("knee", "recommended")]
    lower, upper = sorted(texts, key=lambda box: -box["y"])
    assert upper["y"] + upper["height"] <= lower["y"], texts
    assert min(box["x"] for box in texts) >= 0
    page.close()


@pytest.mark.parametrize("width", [1280, 380])
@pytest.mark.parametrize("lowest", [0.0, 0.2, 0.93])
def test_the_axis_of_the_metric_ends_where_the_metric_does(
    browser: Any, tmp_path: Path, lowest: float, width: int
) -> None:
    points = [documents.point(2, "o_proj r8", 1.0, 1.2, front=True, validation_accuracy_ci=[0.99, 1.0])]
    document = documents.document(points=points)
    document["base"]["validation_accuracy"] = lowest
    path = tmp_path / "front.html"
    path.write_text(figure_html(front_figure(document), full_page=True), "utf-8")
    page, _ = opened(browser, path, width=width)
    ticks = [float(text) for text in page.locator(".ytick text").all_text_contents()]
    assert 0 <= min(ticks) < max(ticks) <= 1, ticks
    name, buttons = page.locator(".annotation-text").bounding_box(), page.locator(".modebar").bounding_box()
    assert name["y"] >= buttons["y"] + buttons["height"]
    page.close()


def test_placements_of_many_groups_leave_figures_their_room(browser: Any, tmp_path: Path) -> None:
    label = "+".join(f"{name}_proj@{band}" for name in "gkoquv" for band in ("first", "middle", "last")) + " r8"
    points = [documents.point(trial, label, 0.3 + trial / 10, 1.1 + trial / 10, front=True) for trial in range(6)]
    document = documents.document(points=points, front=[documents.member(point, 0.6) for point in points])
    path = tmp_path / "report.html"
    path.write_text(report_page(document), "utf-8")
    page, _ = opened(browser, path)
    read_to_the_end(page)
    drawings = page.locator(".figure .xy .gridlayer").all()
    heights = [each.bounding_box()["height"] for each in drawings]
    assert min(heights) > 200, heights
    page.close()


def test_a_page_without_javascript_says_so_where_figures_would_be(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(documents.document()), "utf-8")
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    figures = page.locator(".figure").all()
    assert len(figures) == 5
    for figure in figures:
        assert figure.text_content().startswith("This figure is drawn by JavaScript, which is off here")
        assert figure.bounding_box()["height"] < 100
    page.close()


def test_every_group_of_the_effects_is_named(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(documents.many_groups()), "utf-8")
    page, wrong = opened(browser, path)
    read_to_the_end(page)
    names = page.locator(".figure").nth(1).locator(".ytick text").all()
    boxes = sorted((name.bounding_box() for name in names), key=lambda box: box["y"])
    assert len(boxes) == 70
    assert all(above["y"] + above["height"] <= below["y"] for above, below in itertools.pairwise(boxes))
    assert wrong == []
    page.close()


def test_the_front_answers_to_the_mouse(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(documents.document()), "utf-8")
    page, _ = opened(browser, path)
    figure = page.locator(".figure").first
    figure.locator(".scatterlayer .trace .points path").first.hover(force=True)
    text = figure.locator(".hoverlayer .hovertext").first.text_content(timeout=5000)
    assert "validation accuracy" in text and "TPOT ratio" in text
    page.close()


def test_figures_wait_for_their_reader_and_print_does_not(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(documents.large()), "utf-8")
    page, wrong = opened(browser, path)
    assert page.evaluate(DRAWN) == 1, "only the front is needed at once"
    page.pdf(path=tmp_path / "report.pdf")
    assert page.evaluate(DRAWN) == page.locator(".figure").count() > 1
    assert wrong == []
    page.close()
