"""How api and scheduler run beside their node of the cluster, with programs that only say what they do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.cli_serve import SECRETS
from tests.compose.stack import compose, interpolated
from tests.waiting import wait_for

#: Runs until it is told to end, and then ends in order, which takes a moment.
LASTING = """#!/bin/bash
trap 'echo "{name} was told to end" >> "$LOG"; sleep 0.2; echo "{name} ended" >> "$LOG"; exit 7' TERM
echo "{name} $*" >> "$LOG"
while [ ! -e "$LOG.{name}" ]; do sleep 0.02; done
echo "{name} ended" >> "$LOG"
exit 3
"""
BEGUN = ["ray start --address=ray-head:6379 --num-cpus=0 --block", "serve one --two"]


class Watched:
    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.touch()
        for name in ("ray", "serve"):
            (folder / name).write_text(LASTING.format(name=name))
        (folder / "python").write_text('#!/bin/bash\nsleep 0.1\ngrep -q "ray start" "$LOG"\n')  # whether one can join
        for name in ("ray", "serve", "python"):
            (folder / name).chmod(0o755)
        services = interpolated(compose(), dict.fromkeys(SECRETS, "x"))["services"]
        shell, flag, script, own, *_ = services["api"]["command"]
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(self.log)}
        self.process = subprocess.Popen([shell, flag, script, own, "serve", "one", "--two"], env=environment)

    def said(self) -> list[str]:
        return self.log.read_text().splitlines()

    def until(self, met: Callable[[list[str]], bool]) -> None:
        wait_for(lambda: met(self.said()), told=self.log.read_text)

    def end(self, name: str) -> None:
        self.log.with_name(f"log.{name}").touch()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    try:
        watched.until(lambda said: said == BEGUN)
        yield watched
    finally:
        watched.process.send_signal(signal.SIGTERM)
        watched.process.wait(20)


def test_sigterm_ends_the_program_in_order_and_then_the_node(watched: Watched) -> None:
    watched.process.send_signal(signal.SIGTERM)
    assert watched.process.wait(20) == 7
    watched.until(lambda said: len(said) == 6)
    assert watched.said() == [
        *BEGUN,
        "serve was told to end",
        "serve ended",
        "ray was told to end",
        "ray ended",
    ]


def test_a_node_that_ends_takes_the_program_with_it(watched: Watched) -> None:
    watched.end("ray")
    assert watched.process.wait(20) == 7
    assert watched.said() == [*BEGUN, "ray ended", "serve was told to end", "serve ended"]


def test_a_program_that_ends_takes_the_node_with_it(watched: Watched) -> None:
    watched.end("serve")
    assert watched.process.wait(20) == 3
    watched.until(lambda said: len(said) == 5)
    assert watched.said() == [*BEGUN, "serve ended", "ray was told to end", "ray ended"]


def test_the_program_hears_sigint(watched: Watched) -> None:
    pid = watched.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ignored = [re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{child}/status").read_text()) for child in children]
    assert len(children) == 2
    assert not any(int(mask, 16) & 1 << signal.SIGINT - 1 for (mask,) in ignored)


def test_both_services_are_run_so() -> None:
    services = compose()["services"]
    scripts = {services[name]["command"][2] for name in ("api", "scheduler")}
    assert len(scripts) == 1
    assert services["scheduler"]["command"][4:] == ["python", "-m", "search", "schedule", "run"]
