"""Adapters over HTTP: a search's, as an archive."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from safetensors.torch import load

from search.api.app import application
from search.api.supervisor import Supervisor
from search.catalog import Catalog
from search.home import Home
from tests.api.conftest import Service
from tests.objectives.conftest import no_file_larger_than

__all__ = ["no_file_larger_than"]  # a fixture of the objectives' tests


@pytest.mark.parametrize(("pick", "trial"), [(None, 1), ("best", 1), ("trial=0", 0)])
def test_an_adapter_is_taken_as_a_zip(service: Service, pick: str | None, trial: int) -> None:
    answer = service.client("read").get("/searches/demo/adapter", params={"pick": pick} if pick else {})
    assert answer.headers["content-disposition"] == f'attachment; filename="demo-trial-{trial}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {"adapter_model.safetensors", "adapter_config.json", "manifest.json"} <= set(archive.namelist())
        assert json.loads(archive.read("manifest.json"))["trial"] == trial
        assert load(archive.read("adapter_model.safetensors")).keys() == {"lora_A.weight"}


@pytest.mark.parametrize("asked", [None, "bytes=0-9", "bytes=abc", "bytes=99999999-", "bytes=5-2", "x"])
def test_an_archive_is_sent_whole_and_leaves_nothing_behind(
    service: Service, asked: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    headers = {"Range": asked} if asked else {}
    answer = service.client("read").get("/searches/demo/adapter", headers=headers)
    assert (answer.status_code, answer.headers["accept-ranges"]) == (200, "none")
    assert zipfile.ZipFile(io.BytesIO(answer.content)).testzip() is None
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_adapter_goes_with_a_home_that_was_moved(service: Service) -> None:
    moved = Home.at(service.home.folder.with_name("moved"), None, None)
    service.catalog.close()
    service.home.folder.rename(moved.folder)
    with closing(Catalog(moved.storage)) as catalog:
        app = application(catalog, moved, Supervisor(catalog, moved, at_once=1))
        client = TestClient(app, headers={"Authorization": f"Bearer {service.tokens['read']}"})
        (member, *_) = client.get("/searches/demo/front").json()["front"]
        assert Path(member["adapter"]).is_relative_to(moved.folder)
        assert client.get("/searches/demo/adapter").status_code == 200


def test_what_cannot_be_exported_says_why(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    client = service.client("read")
    for pick, code in {"trial=7": 409, "trial=²": 422, "x": 422}.items():
        answer = client.get("/searches/demo/adapter", params={"pick": pick})
        assert answer.status_code == code
    adapter = service.catalog.trials(service.catalog.search("demo").id)[0].adapter
    assert adapter is not None
    (Path(adapter) / "adapter_model.safetensors").write_bytes(b"changed")
    changed = client.get("/searches/demo/adapter", params={"pick": "trial=0"})
    assert changed.status_code == 409
    assert "has changed since it was measured" in changed.json()["detail"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_disk_that_is_full_is_no_fault_of_the_request(
    service: Service, no_file_larger_than: Callable[[int], AbstractContextManager[None]]
) -> None:
    client = service.client("read")
    with no_file_larger_than(64):
        answer = client.get("/searches/demo/adapter", params={"pick": "trial=0"})
    assert answer.status_code == 503
    assert "--out" not in answer.text
    assert client.get("/searches/demo/adapter", params={"pick": "trial=0"}).status_code == 200
