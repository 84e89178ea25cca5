"""Commands as processes of their own: they end with who began them, and others can see that they have not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.children import is_at_work, last_words, size_of, spawn
from tests.waiting import wait_for

BEGIN = """
import os, sys, time
from pathlib import Path
from search.children import spawn
child = "import sys, time; print('up', file=sys.stderr, flush=True); time.sleep(600)"
spawn([sys.executable, "-S", "-c", child], Path(sys.argv[1]), os.environ)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's end")
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    parent = subprocess.Popen([sys.executable, "-c", BEGIN, str(log)])
    try:
        wait_for(lambda: log.exists() and log.read_text() == "up\n", alive=lambda: parent.poll() is None)
        assert is_at_work(log)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not is_at_work(log))


def test_an_interrupt_at_the_terminal_reaches_no_child(tmp_path: Path) -> None:
    """A terminal interrupts its whole group of processes: the server's searches would look as if they were canceled."""
    child = spawn([sys.executable, "-S", "-c", "import time; time.sleep(600)"], tmp_path / "child.log", os.environ)
    try:
        assert os.getpgid(child.pid) == child.pid
    finally:
        child.kill()
        child.wait()


def test_what_a_child_says_is_appended(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    assert not is_at_work(log)
    for word in ("one", "two"):
        child = spawn([sys.executable, "-S", "-c", f"import sys; sys.exit('{word}')"], log, os.environ, str(tmp_path))
        assert child.wait(60) == 1
    assert log.read_text() == "one\ntwo\n"
    assert not is_at_work(log)


def test_the_last_words_are_those_of_this_attempt(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "s.log"
    assert size_of(log) == 0
    assert last_words(log, 0, 1) == (
        "it ended with exit code 1, and logs/s.log in the home cannot be read (No such file or directory)"
    )
    log.parent.mkdir()
    log.write_text("error: of yesterday\n")
    heard = size_of(log)
    with log.open("a") as stream:
        stream.write("Killed\n")
    assert last_words(log, heard, 1) == "it ended with exit code 1: see logs/s.log in the home"
    with log.open("a") as stream:
        stream.write("error: of a first try\n" + "x" * 10_000 + "\nerror: of a second\n")
        stream.write("error: of postgresql://me:secret@db today\nbye\n")
    assert last_words(log, heard, 1) == "of postgresql://***@db today"
    assert last_words(log, heard, -9) == "it ended with exit code -9: see logs/s.log in the home", (
        "that was no end of ours"
    )
