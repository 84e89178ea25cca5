"""A search whose adapters and checkpoints lie in a real S3 store, killed on the way, and what is made of it later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from objectives import storage
from objectives.errors import StoreError
from search.catalog.store import Catalog
from search.doctor import examine
from search.export import export_adapter, verify_adapter
from search.home import Home
from search.removal import remove
from search.run import start
from search.spec import SearchSpec
from tests import forked
from tests.commands import QUICK, assert_whole, environment_within
from tests.s3 import BUCKET, Store, running_store
from tests.waiting import wait_for

ROOT = f"s3://{BUCKET}/team a"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="r-"))  # short: it holds sockets
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def begun(store: Store, folder: Path, ray: Path, *args: str, **changes: str) -> Iterator[BaseProcess]:
    """A command that may reach the store. What it says is in the files ``said`` and ``output`` of the folder."""
    given = environment_within(folder) | store.environment | {"RAY_TMPDIR": str(ray)} | changes
    with (folder / "said").open("a") as said, (folder / "output").open("w") as output:
        files = {"stdout": output, "stderr": said}
        with forked.started(forked.search, *args, environment=given, **files) as process:
            yield process


def holding(folder: Path, secret: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret.encode() in path.read_bytes()]


def stored(store: Store) -> set[str]:
    """Names of the files of a store that is written to: a folder may go between its listing and its reading."""
    return {name for _, _, names in os.walk(store.files) for name in names}


@pytest.mark.slow
def test_a_search_keeps_its_adapters_in_s3(
    tmp_path: Path,
    ray_folder: Path,
    migrated_mlflow: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Home.at(tmp_path / "h", None, None)
    with running_store(tmp_path_factory.mktemp("s3")) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        storage._client.cache_clear()
        home.folder.mkdir()
        shutil.copyfile(migrated_mlflow, home.folder / "mlflow.db")
        with pytest.raises(StoreError, match=r"at s3://nowhere/x from .* \(NoSuchBucket: ") as refusal:
            start(SearchSpec(name="none", adapters="s3://nowhere/x"), home)
        assert refusal.value.exit_code == 2
        with closing(Catalog(home.storage)) as catalog:
            assert catalog.searches() == [], "nothing had begun"
        flags = ["--home", str(home.folder), "--json"]
        run = ["run", *QUICK, "--steps", "40", "--budget", "3", "--checkpoint-seconds", "0.01", *flags]
        said, output = tmp_path / "said", tmp_path / "output"

        def on_the_way() -> bool:
            names = stored(store)
            return WEIGHTS in names and any(name.endswith(".checkpoint.safetensors") for name in names)

        with begun(store, tmp_path, ray_folder, *run, "--name", "far", "--adapters", ROOT) as killed:
            wait_for(on_the_way, 120, alive=killed.is_alive, told=said.read_text, pause=0.01)
            killed.kill()
            killed.join()
        assert killed.exitcode == -signal.SIGKILL
        with begun(store, tmp_path, ray_folder, "resume", "far", *flags, SEARCH_ADAPTERS="/else/where") as resumed:
            resumed.join(240)
        assert resumed.exitcode == 0, said.read_text()
        document: dict[str, Any] = json.loads(output.read_text())

        state = assert_whole(home.folder, "far", 3)
        search, trials = state["search"], state["trials"]
        assert search.spec["adapters"] == ROOT
        assert all(trial.adapter.startswith(f"{ROOT}/{search.id}/000{trial.number}-") for trial in trials)
        assert sorted(path.parent.name for path in store.files.rglob(WEIGHTS)) == sorted(
            trial.adapter.rpartition("/")[2] for trial in trials
        )
        assert not list(store.files.rglob("*.checkpoint.safetensors"))
        assert not (home.folder / "adapters").exists()

        member = document["front"][-1]
        with closing(Catalog(home.storage)) as catalog:
            manifest = export_adapter(catalog, search, f"trial={member['trial']}", tmp_path / "out")
        assert manifest["test"]["accuracy"] == member["accuracy"]
        again = verify_adapter(tmp_path / "out", None, None)
        assert again["measured"] == again["recorded"] == member["accuracy"]
        copy = state["client"].download_artifacts(member["mlflow_run_id"], "adapter", str(tmp_path))
        assert Path(copy, WEIGHTS).read_bytes() == (tmp_path / "out" / WEIGHTS).read_bytes()

        with home.adapters(search).writing("0009-left") as stray:
            stray.write_bytes(b"x")
        (found,) = examine(home, "far", fix=True)
        assert (found["problems"], found["mended"]) == ([], ["1 folders or files of no trial deleted: 0009-left"])
        with closing(Catalog(home.storage)) as catalog:
            old = catalog.create_search("old", search.spec, {})
            with home.adapters(old).writing("0000-o") as adapter:
                adapter.mkdir()
                (adapter / WEIGHTS).touch()
            assert home.adapters(old).names() == ["0000-o"]
            remove(catalog, home, old, keep_mlflow=False)
        assert home.adapters(old).names() == []
        assert len(home.adapters(search).names()) == len(trials)
        home.adapters(search).delete(trials[0].adapter.rpartition("/")[2])
        (found,) = examine(home, "far", fix=True)
        assert found["problems"] == [
            f"trial 0: adapter {trials[0].adapter} has no {WEIGHTS}: it was moved or deleted; take it from where it is "
            "still kept (MLflow has a copy), or train it again"
        ]
    (found,) = examine(home, "far", fix=True)
    assert [problem.partition(" from ")[0] for problem in found["problems"]] == [
        f"adapters cannot be read or written at {ROOT}/{search.id}"
    ]
    storage._client.cache_clear()
    assert "Traceback" not in said.read_text()
    for secret in (store.key, store.secret):
        assert holding(tmp_path, secret) == holding(ray_folder, secret) == []  # nor was it said
