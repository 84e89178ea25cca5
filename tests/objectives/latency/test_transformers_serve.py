"""A real OpenAI-compatible server from end to end: ``transformers serve`` on a shared model, by the command line."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from objectives.errors import RequestError
from objectives.latency.stream import Endpoint
from tests.commands import call, environment, free_port
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("openai", "accelerate", "uvicorn", "fastapi")),
        reason="pip install 'transformers[serving]' brings the server",
    ),
]


def answers(url: str) -> bool:
    try:
        Endpoint(url).call("GET", "/health")
    except RequestError:
        return False
    return True


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    url = f"http://127.0.0.1:{port}"
    wait_for(
        lambda: answers(url), 120, alive=lambda: server.poll() is None, told=lambda: Path(log.name).read_text()[-2000:]
    )
    yield url
    server.kill()  # asked to end, it takes ten seconds
    server.wait(30)
    log.close()


def test_the_table_of_a_real_server(endpoint: str, shared: Path, tmp_path: Path) -> None:
    model = shared / "models" / "stories260K"
    flags = ["--model", str(model), "--engine", "openai", "--endpoint", endpoint, "--home", str(tmp_path)]
    done = call("latency", *flags, "--max-seconds", "0.5", "--json")
    document = json.loads(done.stdout)
    assert document["engine"] == "transformers serve"
    assert document["device"] == f"transformers serve at {endpoint}"
    rows = {tuple(row["targets"]): row for row in document["profiles"] if row["source"] == "measured"}
    assert len(rows) == 12
    for row in [*rows.values(), document["base"]]:
        assert 0 < row["tpot_p50_ms"] <= row["tpot_p95_ms"] <= row["tpot_p99_ms"]
        assert row["ttft_p50_ms"] > 0
    # Medians over placements, which rounds visit by turns: what else the machine does for a while falls on all of them.
    few = median(row["ratio"] for targets, row in rows.items() if len(targets) < 3)
    many = median(row["ratio"] for targets, row in rows.items() if len(targets) >= 3)
    assert many > 1.1, "unmerged adapters on three groups and more are served, and cost time"
    assert many > few
    low, high = document["drift"]["ratio_ci"]
    assert low < 1.1 and high > 0.9
    _, listed = Endpoint(endpoint).call("GET", "/v1/models")
    assert not [model["id"] for model in listed["data"] if model["status"]["value"] == "loaded"], "no copy stays behind"
