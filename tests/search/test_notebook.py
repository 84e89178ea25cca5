"""The Python API asks where the command line asks: the same variables, the same home, the same adapters."""

from __future__ import annotations

import shutil
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from dashboards import words
from dashboards.figures import front_figure
from objectives.errors import RequestError
from search.home import Home
from search.notebook import Search
from search.spec import SearchSpec
from tests.api.conftest import Service, service

__all__ = ["service"]  # a fixture of the API's tests


def test_the_storage_of_the_environment_is_asked(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_STORAGE", service.home.storage)
    monkeypatch.setenv("SEARCH_HOME", str(tmp_path / "mine"))
    assert Search("demo").document["search"] == "demo"


def test_a_search_stays_where_it_was_when_the_folder_changes(
    service: Service, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(service.home.folder.parent)
    found = Search("demo", home=service.home.folder.name)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert found.document["search"] == "demo"


def test_a_search_may_be_resumed_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SearchSpec] = []

    def start(spec: SearchSpec, home: Home) -> None:
        asked.append(spec)
        raise RequestError("that is all")

    monkeypatch.setattr("search.run.start", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "rows.jsonl").touch()
    spec = SearchSpec(model="llama", data="./rows.jsonl", adapters="kept", seed=1)
    with pytest.raises(RequestError, match=r"^that is all$"):
        Search.run(spec, home=tmp_path / "home")
    full = {"model": f"{tmp_path}/llama", "data": f"{tmp_path}/rows.jsonl", "adapters": f"{tmp_path}/kept"}
    assert asked == [replace(spec, **full)]


def test_what_a_resume_found_is_shown_however_it_ended(service: Service) -> None:
    found = Search("demo", home=str(service.home.folder))
    assert found.document["status"] == "complete"
    service.catalog.set_status(service.catalog.search("demo").id, "interrupted")
    with pytest.raises(RequestError, match=r"^--budget 1 is below the "):
        found.resume(budget=1)
    assert found.document["status"] == "interrupted"


def test_a_question_makes_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEARCH_STORAGE", raising=False)
    with pytest.raises(
        RequestError, match=r"^nothing is recorded in 'sqlite:///.*/none/search.db', which is not there"
    ):
        Search("demo", home=str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_adapters_are_found_in_a_home_that_was_moved(service: Service, tmp_path: Path) -> None:
    service.catalog.close()
    shutil.move(service.home.folder, tmp_path / "moved")
    moved = Search("demo", home=str(tmp_path / "moved"))
    assert moved.export(tmp_path / "out", "best")["search"] == "demo"
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_a_notebook_shows_the_result_in_words_and_the_front(service: Service) -> None:
    found = Search("demo", home=service.home.folder)
    assert repr(found).startswith("Search('demo': complete, 2 of 2 trials (2 complete)")
    shown = found._repr_html_()
    for sentence in (words.outcome(found.document), words.recommendation(found.document)):
        assert f"<p>{escape(sentence)}</p>" in shown
    assert shown.count('class="figure"') == shown.count('id="plotly"') == 1
    assert found.figure() == front_figure(found.document)
    assert [member["trial"] for member in found.front] == [0, 1]
    assert found.picked("trial=1")["label"] == found.picked("best")["label"] == "q_proj r8"


def test_a_report_is_written_where_a_user_says_home(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Search("demo", home=service.home.folder).report("~/demo.html") == tmp_path / "demo.html"
    assert (tmp_path / "demo.html").is_file()
