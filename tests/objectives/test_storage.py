"""One suite for both kinds of storage: what is written is read, whole or not at all. S3 is a real server."""

from __future__ import annotations

import pickle
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from objectives import storage as module
from objectives.adapter import check_adapter, save_adapter
from objectives.checkpoint import SUFFIX, Keeper, drop_checkpoints, load_checkpoint
from objectives.errors import StoreError
from objectives.placement import Placement
from objectives.storage import Bucket, Folder, Storage, fetched, storage_at
from objectives.training import TrainingResult
from objectives.workbench import Request, Workbench
from tests.objectives.test_adapter import adapter_of
from tests.objectives.test_workbench import assignment
from tests.objectives.tiny import Zoo
from tests.s3 import BUCKET, Store, running_store
from tests.waiting import wait_for

NAMES = ["0007-ab12", "ü %2f+&=", "a'\"b", "..x", "x" * 200]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running_store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def in_s3(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    module._client.cache_clear()
    yield Bucket(BUCKET, f"a prefix/{tmp_path.name}")
    module._client.cache_clear()


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    found: Storage = request.getfixturevalue("in_s3") if request.param == "s3" else Folder(tmp_path / "a folder/in it")
    found.check(create=True)
    assert found.names() == [], "the probe is gone"
    return pickle.loads(pickle.dumps(found))  # as it travels to a worker


def write(storage: Storage, name: str, **files: bytes) -> None:
    with storage.writing(name) as folder:
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)


def read(storage: Storage, name: str) -> dict[str, bytes]:
    with storage.reading(name) as folder:
        return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.is_dir() else {}


@pytest.mark.parametrize("location", ["/adapter", "/a/b", "adapter", "a/b"])
def test_a_folder_may_lie_anywhere(location: str) -> None:
    """Also directly below the root, as containers have it."""
    with fetched(location) as folder:
        assert folder == Path(location)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_what_is_written_is_read_and_deleted(storage: Storage, name: str) -> None:
    content = bytes(range(256)) * 5000
    write(storage, name, one=content, two=b"")
    with storage.writing(name + ".file") as file:
        file.write_bytes(content)
    assert storage.names() == sorted([name, name + ".file"])
    assert read(storage, name) == {"one": content, "two": b""}
    with fetched(storage.at(name + ".file")) as file:
        assert file.read_bytes() == content
    with fetched(storage.at(name)) as folder:
        assert (folder / "one").read_bytes() == content
    storage.delete(name)
    assert storage.names() == [name + ".file"], "an entry whose name begins with another's is another one"
    storage.delete(name + ".file")
    storage.delete(name)
    assert storage.names() == []


def test_what_is_not_there(storage: Storage) -> None:
    with storage.reading("none") as path:
        assert not path.exists()
    assert storage_at(storage.at("none")).names() == []


def test_a_second_writing_takes_the_place_of_the_first(storage: Storage) -> None:
    write(storage, "a", old=b"1", both=b"1")
    write(storage, "a", both=b"2", new=b"2")
    assert read(storage, "a") == {"both": b"2", "new": b"2"}


def test_an_error_while_writing_leaves_what_was_there(storage: Storage) -> None:
    write(storage, "a", one=b"1")
    for name in ("a", "b"):
        with pytest.raises(ZeroDivisionError), storage.writing(name) as folder:
            folder.mkdir()
            (folder / "one").write_bytes(b"2")
            raise ZeroDivisionError
    assert storage.names() == ["a"]
    assert read(storage, "a") == {"one": b"1"}


def test_adapters_and_checkpoints_go_through_it(storage: Storage, zoo: Zoo) -> None:
    adapted = adapter_of(zoo)
    digest = save_adapter(adapted, storage, "0001")
    with fetched(storage.at("0001")) as folder:
        check_adapter(folder, digest)
    model = adapted.get_base_model()
    training = TrainingResult(3, [(3, 0.5)], {})
    Keeper(storage, "0002" + SUFFIX, model, 0.0)(training)
    assert load_checkpoint(storage, "0002" + SUFFIX, model) == training
    assert load_checkpoint(storage, "0001" + SUFFIX, model) is None
    drop_checkpoints(storage)
    assert storage.names() == ["0001"]


def test_a_trial_leaves_its_adapter_alone(storage: Storage, zoo: Zoo, tmp_path: Path) -> None:
    """Beside a folder's, the adapter of S3 has the same bits, and reads the test split the same."""
    placement, given = Placement.of(["o_proj", "up_proj"], 4), assignment(zoo, "llama", tmp_path, checkpoint_seconds=0)
    expected = Workbench(given).measure([Request(placement, "0007")])[0]
    bench = Workbench(replace(given, adapters=storage))
    outcome = bench.measure([Request(placement, "0007")])[0]
    assert outcome["adapter"] == storage.at("0007")
    assert outcome["adapter_sha256"] == expected["adapter_sha256"]
    assert storage.names() == ["0007"]
    assert bench.test(outcome["adapter"]) == bench.test(expected["adapter"])


def test_an_upload_that_is_cut_off_changes_nothing(in_s3: Bucket, store: Store) -> None:
    """As when a worker is killed in the middle of one; asked while the upload is open, and after it."""
    write(in_s3, "a", weights=b"old")
    client = boto3.client("s3", region_name="us-east-1", config=Config(signature_version="s3v4"))
    target = {"Bucket": in_s3.bucket, "Key": in_s3._key("a/weights")}
    signed = urllib.request.Request(client.generate_presigned_url("put_object", Params=target))
    head = f"PUT {signed.selector} HTTP/1.1\r\nHost: {signed.host}\r\nContent-Length: 1000000\r\n\r\n".encode()
    half = b"n" * 500_000

    def arriving() -> bool:
        return any(store.files.rglob(".rclone_temp_put_*"))

    with socket.create_connection(("127.0.0.1", store.port)) as upload:
        upload.sendall(head + half)
        wait_for(arriving)
        assert read(in_s3, "a") == {"weights": b"old"}
    wait_for(lambda: not arriving())
    assert read(in_s3, "a") == {"weights": b"old"}
    with socket.create_connection(("127.0.0.1", store.port)) as upload:  # the same, whole
        upload.sendall(head + 2 * half)
        assert upload.recv(100).startswith(b"HTTP/1.1 200")
    assert read(in_s3, "a") == {"weights": 2 * half}


def test_weights_come_last_and_are_the_first_to_go(in_s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is several objects: of one that a kill left half, the weights are missing."""
    write(in_s3, "a", **{"a.safetensors": b"old", "z.json": b"old"})
    client, uploaded = module._client(), []

    def upload(file: str, *args: object, **kwargs: object) -> None:
        uploaded.append(Path(file).name)
        if len(uploaded) == 2:
            raise KeyboardInterrupt
        type(client).upload_file(client, file, *args, **kwargs)

    monkeypatch.setattr(client, "upload_file", upload)
    with suppress(KeyboardInterrupt):
        write(in_s3, "a", **{"a.safetensors": b"new", "z.json": b"new"})
    assert uploaded == ["z.json", "a.safetensors"]
    assert read(in_s3, "a") == {"z.json": b"new"}


def test_objects_of_others_lead_nowhere(in_s3: Bucket, tmp_path: Path) -> None:
    write(in_s3, "a", one=b"1")
    for key in ("a/deep/file", "ab"):
        module._client().put_object(Bucket=in_s3.bucket, Key=in_s3._key(key), Body=b"")
    assert read(in_s3, "a") == {"one": b"1"}
    in_s3.delete("a")
    assert "ab" in in_s3.names()


def test_a_large_file_goes_in_parts(in_s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ONE_PIECE", 6 * 2**20)
    content = bytes(range(256)) * 50_000
    with in_s3.writing("large") as file:
        file.write_bytes(content)
    with in_s3.reading("large") as file:
        assert file.read_bytes() == content


def refusal(storage: Storage) -> str:
    module._client.cache_clear()
    with pytest.raises(StoreError) as caught:
        storage.check(create=True)
    return str(caught.value)


def test_what_refuses_is_one_sentence(in_s3: Bucket, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    why = {
        storage_at("s3://nowhere/x/"): "NoSuchBucket: The specified bucket does not exist",
        in_s3: "SignatureDoesNotMatch: The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method",
        Bucket("b", ""): 'Could not connect to the endpoint URL: "http://***@127.0.0.1:1/b/',
        Bucket("c", ""): "Unable to locate credentials",
    }
    sentence = (
        "adapters cannot be read or written at {} from " + socket.gethostname() + " ({}): check that the bucket is "
        "there, and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL on that machine"
    )
    nowhere, wrong, unreachable, without = why
    assert refusal(nowhere) == sentence.format("s3://nowhere/x", why[nowhere])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert refusal(wrong) == sentence.format(f"s3://{BUCKET}/{in_s3.prefix}", why[wrong])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hidden@127.0.0.1:1")
    assert "hidden" not in refusal(unreachable)
    assert why[unreachable] in refusal(unreachable)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nowhere")
    assert refusal(without) == sentence.format("s3://c", why[without])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert refusal(without) == (
        "AWS_ENDPOINT_URL is no address of a server: give for example http://127.0.0.1:9000, or none for AWS"
    )


def test_a_check_writes_and_deletes_beside_the_entries(in_s3: Bucket) -> None:
    """Keys that may read, or delete, but not write are told before the first trial, whose adapter would be lost."""
    asked: list[tuple[str, str]] = []

    def note(params: dict[str, str], model: Any, **_: object) -> None:
        asked.append((model.name, params["Key"]))

    module._client().meta.events.register("provide-client-params.s3", note)
    in_s3.check()
    (put, probe), (delete, gone) = asked
    assert (put, delete) == ("PutObject", "DeleteObject")
    assert probe == gone
    assert probe.startswith(f"{in_s3.prefix}/.probe-")


def test_a_store_that_goes_away_fails_no_trial(store: Store, in_s3: Bucket, zoo: Zoo, tmp_path: Path) -> None:
    """What the worker raises ends the search, as a full disk does; once the store is back the trial is done again."""
    bench = Workbench(replace(assignment(zoo, "llama", tmp_path), adapters=in_s3))
    placement = Placement.of(["o_proj"], 4)
    store.stop()
    with pytest.raises(StoreError, match="Could not connect to the endpoint URL"):
        bench.measure([Request(placement, "0007")])
    store.start()
    assert bench.measure([Request(placement, "0007")])[0]["status"] == "complete"
    assert in_s3.names() == ["0007"]


def test_a_folder_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(Folder(tmp_path / "file")) == (
        f"the folder of adapters {tmp_path}/file cannot be written on {socket.gethostname()} (File exists): give as "
        "--adapters or --home a folder that all machines of the search share under the same path"
    )


def test_an_adapter_follows_its_folder(tmp_path: Path) -> None:
    write(Folder(tmp_path / "now"), "a", one=b"1")
    here = Folder(tmp_path / "now")
    assert here.moved(f"{tmp_path}/before/a") == f"{tmp_path}/now/a"
    assert here.moved(f"{tmp_path}/before/b") == f"{tmp_path}/before/b"
    write(Folder(tmp_path / "before"), "a", one=b"1")
    assert here.moved(f"{tmp_path}/before/a") == f"{tmp_path}/before/a", "a home that was copied leaves it there"
    assert Bucket("b", "").moved("s3://b/a") == "s3://b/a"
