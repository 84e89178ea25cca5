"""Commands as processes of their own: they end with who began them, and others can see that they have not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.children import is_at_work, spawn
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
    wait_for(lambda: log.exists() and log.read_text() == "up\n")
    assert is_at_work(log)
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_at_work(log))


def test_what_a_child_says_is_appended(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    assert not is_at_work(log)
    for word in ("one", "two"):
        child = spawn([sys.executable, "-S", "-c", f"import sys; sys.exit('{word}')"], log, os.environ, str(tmp_path))
        assert child.wait(60) == 1
    assert log.read_text() == "one\ntwo\n"
    assert not is_at_work(log)
