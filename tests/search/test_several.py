"""Searches of several data sets in a row."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from objectives.errors import Interrupted, RequestError, SearchError, StoreError
from search.catalog import Catalog
from search.home import Home
from search.several import _comparable, _named, _track, _unused, run_each
from search.spec import SearchSpec
from tests.search.recorded import record_task

#: Placements, and how many rows of each are right.
A = {"o_proj": 60, "o_proj+q_proj": 80, "k_proj": 30}


@pytest.fixture
def storage(sqlite: str) -> str:
    """What is read here is read the same from both backends (test_catalog)."""
    return sqlite


def test_searches_of_several_data_sets_are_named_by_prefix_and_data(catalog: Catalog, tmp_path: Path) -> None:
    home = Home(tmp_path, catalog.url, "")

    def names(prefix: str | None, *data: str, kind: str = "") -> list[str | None]:
        specs = [SearchSpec(name=prefix, model="models/tiny", data=source) for source in data]
        return [spec.name for spec in _named(specs, home, kind)]

    assert names(None, "x/a.jsonl", "y/a", kind="ablate") == ["ablate-tiny-a", "ablate-tiny-a-2"]
    assert names(None, "x/mails", "x/talks") == ["tiny-mails", "tiny-talks"]
    assert names("nightly", "x/mails", "x/talks") == ["nightly-mails", "nightly-talks"]
    record_task(catalog, "nightly-talks", A)
    with pytest.raises(
        RequestError, match=f"^a search named 'nightly-talks' exists already .*resume nightly-talks --home {tmp_path}"
    ):
        names("nightly", "x/mails", "x/talks")
    with pytest.raises(RequestError, match=r"data set x/mails is given twice: give each data set once"):
        names(None, "x/mails", "x/mails")


def test_trials_of_several_data_sets_all_run_to_their_end() -> None:
    def strategies(*strategies: str) -> list[str]:
        return [spec.strategy for spec in _comparable([SearchSpec(strategy=strategy) for strategy in strategies])]

    assert strategies("auto", "auto") == ["tpe", "tpe"]
    assert strategies("random", "random") == ["random", "random"]
    assert strategies("auto") == ["auto"]
    settled = SearchSpec(stop_when="settled")
    assert {spec.stop_when for spec in _comparable([settled, settled])} == {"budget"}, "or each would say it again"


@pytest.mark.parametrize(
    ("given", "searches", "standard_list", "unused"),
    [
        ({}, 2, True, []),
        ({"strategy": "tpe", "budget": 60}, 1, True, ["--strategy tpe", "--budget 60"]),
        ({"stop_when": "settled"}, 2, True, ["--stop-when settled"]),
        ({"stop_when": "settled", "budget": 60}, 2, False, ["--stop-when settled"]),
        ({"stop_when": "settled", "strategy": "additive"}, 2, False, []),
        ({"stop_when": "settled", "budget": 60}, 1, False, []),
    ],
)
def test_what_several_searches_do_not_do_is_said(
    given: dict[str, Any], searches: int, standard_list: bool, unused: list[str]
) -> None:
    said = _unused([SearchSpec(**given)] * searches, standard_list)
    why = (
        "the reference placements are trained to their end, and no others"
        if standard_list
        else "trials of several data sets run to their end, so that they can be compared"
    )
    assert said == [f"{setting} is not used: {why}" for setting in unused]


def test_a_cap_that_leaves_no_reference_is_named(tmp_path: Path) -> None:
    spec = SearchSpec(max_adapter_mb=0.01, ranks=(4, 8, 16), validation_rows=4, test_rows=4)
    with pytest.raises(
        RequestError, match=r"^--max-adapter-mb 0.01 allows none of the reference placements: give more$"
    ):
        run_each([spec], Home.at(tmp_path, None, None), standard_list=True)


def on_data(folder: Path, *names: str, **settings: Any) -> list[SearchSpec]:
    """Of data sets that differ, each in a file of its own."""
    specs = [SearchSpec(data=str(folder / f"{name}.jsonl"), name="x", workers=1, **settings) for name in names]
    for spec in specs:
        rows = "".join(f'{{"text": "{n} of {spec.data}", "label": "{n % 2}"}}\n' for n in range(60))
        Path(spec.data or "").write_text(rows)
    return specs


def test_searches_that_share_nothing_are_told_all_the_same(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter(["o_proj", "k_proj"])

    def end(spec: SearchSpec, *_: object) -> dict[str, Any]:
        return {"search": record_task(catalog, spec.name or "", {next(ends): 50}).name}

    monkeypatch.setattr("search.several.start", end)
    said = io.StringIO()
    found = run_each(on_data(tmp_path, "one", "two"), Home.at(tmp_path, catalog.url, None), progress_stream=said)
    assert [each["search"] for each in found["searches"]] == ["x-one", "x-two"]
    assert found["comparison"] is None
    assert "note: searches x-one, x-two have no placement that all of them completed" in said.getvalue()


def test_several_searches_share_the_hours(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ends early, the second late, and the third gets a first result all the same."""
    hours: list[float] = []
    clock = 100.0

    def end(spec: SearchSpec, *_: object) -> dict[str, Any]:
        nonlocal clock
        hours.append(spec.max_hours or 0.0)
        clock += [3600.01, 6 * 3600.0, 0.0][len(hours) - 1]
        return {"search": record_task(catalog, spec.name or "", A).name}

    monkeypatch.setattr("search.several.start", end)
    monkeypatch.setattr("search.several.time", SimpleNamespace(monotonic=lambda: clock))
    specs = on_data(tmp_path, "one", "two", "three", max_hours=6.0)
    run_each(specs, Home.at(tmp_path, catalog.url, None), progress_stream=io.StringIO())
    assert hours == [2.0, 2.5, 0.0001], "and not 2.4999986, which MLflow and resume would show"


@pytest.mark.parametrize("kind", [SearchError, StoreError, Interrupted])
@pytest.mark.parametrize(("begun", "left"), [([], []), (["one"], ["two", "three"]), (["one", "two"], ["three"])])
def test_whatever_ends_one_of_several_the_others_are_named(
    kind: type[SearchError], begun: list[str], left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is the one itself where it ended before its search began, unless the command can be repeated as it is."""

    def end(spec: SearchSpec, home: Home, _: object) -> dict[str, Any]:
        with closing(Catalog(home.storage)) as catalog:
            if Path(spec.data or "").stem in begun:
                catalog.create_search(spec.name or "", spec.to_json(), {})
        if spec.name == "x-one" and begun:
            return {}
        raise kind("it ended")

    monkeypatch.setattr("search.several.start", end)
    specs = on_data(tmp_path, "one", "two", "three")
    with pytest.raises(kind) as ended:
        run_each(specs, Home.at(tmp_path, None, None), progress_stream=io.StringIO())
    files = ", ".join(f"{tmp_path}/{name}.jsonl" for name in left)
    said = f"it ended; not begun: {files}: repeat the command with these, then compare all" if left else "it ended"
    assert (type(ended.value), str(ended.value)) == (kind, said)


def test_a_comparison_that_mlflow_did_not_take_can_be_made_again(catalog: Catalog, tmp_path: Path) -> None:
    said = io.StringIO()
    _track(catalog, Home.at(tmp_path, None, "http://127.0.0.1:9"), {"tasks": ["one", "two"]}, said)
    again = f"`python -m search compare one two --out FILE.html --home {tmp_path}` writes it as a page\n"
    assert said.getvalue().startswith("note: MLflow did not take the comparison (")
    assert said.getvalue().endswith(again)
