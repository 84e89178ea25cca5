"""Where adapters and checkpoints lie: a folder that all machines of a search share, or a prefix of an S3 bucket.

An entry is a file, or a folder of files. Files are there whole or not at all: by a rename in a folder, and in S3
because an object appears when its upload has ended. What a kill leaves has another name, or no weights.
"""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from objectives.errors import StoreError
from objectives.secrets import redacted

S3 = "s3://"
#: Bytes; S3 takes no more than 5 GB in one piece. Larger ones are put together there, and appear when that is done.
_ONE_PIECE = 4 * 2**30


class Storage(Protocol):
    """Values that may be sent to other processes. A server that refuses raises StoreError, a disk its own OSError."""

    def at(self, name: str) -> str:
        """The location of an entry, as :func:`fetched` takes it."""

    def check(self, *, create: bool = False) -> None:
        """Raises StoreError unless something can be written and deleted; ``create`` makes a folder that is missing."""

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """Where to make an entry. It takes the place of an earlier one at the end, unless there was an error."""

    def reading(self, name: str) -> AbstractContextManager[Path]:
        """The entry or a copy of it, not to be changed; where there is none, nothing is at the path."""

    def names(self) -> list[str]:
        """Of all entries, and of what a kill left."""

    def delete(self, name: str) -> None:
        """Nothing, if it is gone."""

    def moved(self, location: str) -> str:
        """Where the entry of that location is now: here, if it is no more where it was."""


def storage_at(root: str) -> Storage:
    """A folder, or ``s3://BUCKET/PREFIX``."""
    if not root.startswith(S3):
        return Folder(Path(root))
    bucket, _, prefix = root.removeprefix(S3).partition("/")
    return Bucket(bucket, prefix.strip("/"))


def fetched(location: str) -> AbstractContextManager[Path]:
    """The entry of a location, as :meth:`Storage.reading` gives it."""
    root, slash, name = location.rpartition("/")
    return storage_at(root or slash).reading(name)  # "/adapter" lies in "/", not in the folder one is in


@dataclass(frozen=True)
class Folder:
    path: Path

    def at(self, name: str) -> str:
        return str(self.path / name)

    def check(self, *, create: bool = False) -> None:
        probe = self.path / f".probe-{uuid.uuid4().hex}"
        try:
            if create:
                self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"the folder of adapters {self.path} cannot be written on {socket.gethostname()} ({error.strerror}): "
                "give as --adapters or --home a folder that all machines of the search share under the same path"
            ) from error

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        self.path.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.path))
        try:
            yield partial / name
            if (self.path / name).is_dir():
                self.delete(name)
            (partial / name).replace(self.path / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        yield self.path / name

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

    def delete(self, name: str) -> None:
        entry = self.path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)

    def moved(self, location: str) -> str:
        here = self.path / Path(location).name
        return str(here) if here.is_dir() and not Path(location).is_dir() else location


@dataclass(frozen=True)
class Bucket:
    """Keys and server come from where boto3 looks for them: ``AWS_*`` in the environment, first of all."""

    bucket: str
    prefix: str  # without slashes at its ends

    @property
    def _root(self) -> str:
        return f"{S3}{self.bucket}/{self.prefix}".rstrip("/")

    def at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}".lstrip("/")

    def check(self, *, create: bool = False) -> None:
        probe = {"Bucket": self.bucket, "Key": self._key(f".probe-{uuid.uuid4().hex}")}
        with self._asked() as client:
            client.put_object(**probe, Body=b"")
            client.delete_object(**probe)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="target-search-") as scratch:
            local = Path(scratch) / name
            yield local
            files = [local]
            if local.is_dir():
                self.delete(name)
                # Weights last: who finds them finds the rest.
                files = sorted(local.iterdir(), key=lambda file: (file.suffix == ".safetensors", file.name))
            with self._asked() as client:
                for file in files:
                    key = self._key(str(file.relative_to(scratch)))
                    client.upload_file(str(file), self.bucket, key, Config=_in_one_piece())

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="target-search-") as scratch:
            local = Path(scratch) / name
            with self._asked() as client:
                for key in self._keys(name):
                    inner = key.removeprefix(self._key(name)).removeprefix("/")
                    # Others may write to the bucket: nothing of theirs leads out of the copy.
                    if "/" in inner or inner in (".", "..") or key.endswith("/"):
                        continue
                    if inner:
                        local.mkdir(exist_ok=True)
                    client.download_file(self.bucket, key, str(local / inner), Config=_in_one_piece())
            yield local

    def names(self) -> list[str]:
        prefix = self._key("")
        inner = [key.removeprefix(prefix).partition("/")[0] for key in self._listed(prefix)]
        return sorted({name for name in inner if name})

    def delete(self, name: str) -> None:
        keys = self._keys(name)
        with self._asked() as client:
            for key in keys:
                client.delete_object(Bucket=self.bucket, Key=key)

    def moved(self, location: str) -> str:
        return location

    def _keys(self, name: str) -> list[str]:
        """Of the entry, or of what is in it."""
        key = self._key(name)
        return [found for found in self._listed(key) if found == key or found.startswith(f"{key}/")]

    def _listed(self, prefix: str) -> list[str]:
        with self._asked() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return [each["Key"] for page in pages for each in page.get("Contents", ())]

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """The client; raises StoreError with what server, network or boto3 refuse."""
        client = _client()
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield client
        except (Boto3Error, BotoCoreError, ClientError) as error:
            said = re.sub(r"^.*An error occurred \((\w+)\).*?: ", r"\1: ", str(error), flags=re.DOTALL)
            said = redacted(said).rstrip(".")
            raise StoreError(
                f"adapters cannot be read or written at {self._root} from {socket.gethostname()} ({said}): check that "
                "the bucket is there, and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL on that machine"
            ) from error


@cache
def _client() -> Any:
    try:
        import boto3
    except ImportError as error:
        raise StoreError(
            "adapters at s3:// need boto3, which is not installed: pip install 'lora-target-search[s3]' on all machines"
        ) from error
    from botocore.config import Config

    config = Config(connect_timeout=5, retries={"mode": "standard", "max_attempts": 4})
    try:
        return boto3.Session().client("s3", config=config)
    except ValueError as error:
        raise StoreError(
            "AWS_ENDPOINT_URL is no address of a server: give for example http://127.0.0.1:9000, or none for AWS"
        ) from error


def _in_one_piece() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=_ONE_PIECE, use_threads=False)
