from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from dashboards import words
from dashboards.report import comparison_page, report_page
from tests.dashboards import documents

VOID = {"meta", "wbr", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Fails on tags that do not match; keeps the text outside scripts and styles, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.regions: list[str | None] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if ("role", "region") in attrs:
            self.regions.append(dict(attrs)["aria-label"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.mark.parametrize("case", documents.ALL)
def test_every_document_gives_one_page_that_asks_for_nothing(case: str) -> None:
    html = report_page(documents.ALL[case]())
    assert len(html.encode()) < 5_000_000
    assert "://" not in html
    assert html.count('id="plotly"') == 1
    assert Page(html).tags.count("html") == 1


def test_the_page_holds_the_whole_result() -> None:
    text = Page(report_page(documents.document())).text
    for part in (
        "Which modules of models/tiny should LoRA adapt for classification on data/questions?",
        "The search is complete, 6 of 6 trials (4 complete, 1 failed, 1 infeasible) in 2m11s.",
        "Recommended: down_proj+o_proj r8 (trial 2): the cheapest within one standard error of the best.",
        "0.610 [0.580, 0.640]",
        "the test split was read once, for the front",
        "2 of 6 trials lack one of the two figures and are not drawn.",
        "python -m search export demo --pick recommended --out DIR",
        "A merged adapter costs the base model's latency",
        "the loss is NaN at step 3",
        "TPOT ratio 1.90 is over 1.5",
        "Trials that ended early: 2",
        "3 texts were cut at 128 tokens.",
        "o_proj r8 (o_proj only)",
        "torch 2.13.0",
        "800 spent of 1,200",
    ):
        assert part in text


def test_every_trial_has_a_row_of_all_that_was_measured() -> None:
    texts = " ".join(Page(report_page(documents.document())).texts)
    table = " ".join(texts.partition("All 6 trials")[2].split())
    for row in (
        "trial placement status validation accuracy validation loss TPOT ratio TPOT p50 ms TPOT p95 ms TTFT p95 ms "
        "parameters steps time",
        "0 q_proj r4 complete 0.500 [0.460, 0.540] 0.900 1.150 [1.130, 1.170] 4.30 4.60 9.60 12,800 200 6s",
        "3 all r4 infeasible - 0.900 1.900 [1.880, 1.920] 4.30 4.60 9.60 12,800 0 6s",
        "7 o_proj r8 (o_proj only) complete, front 0.600 [0.560, 0.640] 0.900 1.120 [1.100, 1.140] 4.30 4.60 9.60",
    ):
        assert row in table


def test_commands_of_the_page_find_the_search() -> None:
    text = Page(report_page(documents.document(), " --home '/my home'")).text
    assert "python -m search export demo --pick recommended --out DIR --home '/my home' python -m search verify" in text
    assert "python -m search recipe demo --for TOOL --home '/my home'" in text


def test_tables_are_told_apart_by_their_names() -> None:
    """Of a page, all of which a screen reader lists."""
    assert Page(report_page(documents.document())).regions == [
        "Base model and front",
        "Trials that ended early",
        "Trials",
        "Where the budget went",
    ]
    assert Page(comparison_page(documents.comparison())).regions == [
        "Regret",
        "Accuracy and gain over the base model",
        "Placements that are not compared",
    ]


def test_a_request_time_has_one_name_on_a_page() -> None:
    text = Page(report_page(documents.encoder())).text
    assert "request time p50 ms" in text and "request time p95 ms" in text
    assert "TTFT" not in text and "TPOT p" not in text


def test_one_is_no_plural() -> None:
    failed = documents.point(1, "k_proj r4", None, None, status="failed")
    html = report_page({**documents.empty(), "points": [failed]})
    assert "1 of 1 trials lacks one of the two figures and is not drawn." in html
    assert "<summary>1 trial</summary>" in html


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


@pytest.mark.parametrize("case", ["document", "untested", "encoder", "large"])
def test_every_figure_of_the_page_is_one_of_the_document(case: str) -> None:
    document = documents.ALL[case]()
    text, _, _ = " ".join(Page(report_page(document)).texts).partition("Provenance")
    written = {f"{value:.{digits}f}" for value in numbers(document) for digits in (1, 2, 3)}
    written |= {f"{sign * value:.1%}" for value in numbers(document) for sign in (1, -1)}
    written |= {figure for point in document["points"] for figure in re.findall(r"\d+\.\d+", point["reason"] or "")}
    for derived in ["(ratio 1.0)", *words.neighbours(document)]:  # differences, the only figures that are worked out
        assert derived in text
        text = text.replace(derived, "")
    figures = re.findall(r"-?\d+\.\d+%?", text)
    assert len(figures) > 40
    assert set(figures) - written == set()


def test_before_the_end_the_page_says_what_is_missing() -> None:
    assert "the test split was not read yet" in Page(report_page(documents.untested())).text
    assert "there is no front" in Page(report_page(documents.empty())).text


def test_names_are_escaped_everywhere() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: part if key == "latency_axis" else spoil(part) for key, part in value.items()}
        if isinstance(value, list):
            return [spoil(part) for part in value]
        return value + evil if isinstance(value, str) else value

    html = report_page(spoil(documents.document()))
    page = Page(html)
    assert page.tags.count("script") == Page(report_page(documents.document())).tags.count("script")
    assert "img" not in page.tags
    assert evil in page.text


def test_dark_mode_narrow_screens_and_print_have_rules() -> None:
    html = report_page(documents.document())
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert re.search(r"@media \(max-width: \d+px\)", html)


def test_a_long_list_of_trials_that_ended_early_is_folded() -> None:
    early = [documents.point(n, "q_proj r4", None, 1.1, status="stopped", reason="others add more") for n in range(31)]
    for trials, opening in ((early[:30], "<details open>"), (early, "<details>")):
        html = report_page({**documents.empty(), "points": trials})
        assert f"{opening}\n<summary>Trials that ended early: {len(trials)}</summary>" in html


def test_a_long_list_of_trials_is_folded() -> None:
    assert "<details open>" in report_page(documents.document())
    assert "<details>" in report_page(documents.large())
