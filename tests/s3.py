"""A real S3 store for tests: the program of docker-compose.yml's, from a pip package, on a folder."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.commands import free_port
from tests.waiting import listens, wait_for

BUCKET = "adapters"


class Store:
    def __init__(self, folder: Path) -> None:
        self.files = folder / BUCKET  # an object is a file here
        self.files.mkdir(parents=True)
        self.port = free_port()
        self.key, self.secret = (secrets.token_hex(16) for _ in range(2))
        #: For whoever is to reach it.
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }
        self.start()

    def start(self) -> None:
        rclone = Path(sys.executable).with_name("rclone")
        keys = ["--auth-key", f"{self.key},{self.secret}"]
        self._process = subprocess.Popen(
            [rclone, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", *keys, self.files.parent],
            stderr=subprocess.DEVNULL,
            env=os.environ | {"RCLONE_CONFIG": os.devnull},
        )
        wait_for(lambda: listens(self.port), 60, alive=lambda: self._process.poll() is None)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def running_store(folder: Path) -> Iterator[Store]:
    store = Store(folder)
    try:
        yield store
    finally:
        store.stop()
