"""The commands on schedules, and the real daemon when it is told to end."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.commands import QUICK, call, call_json, command, environment


def test_a_schedule_is_added_shown_paused_and_removed(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path))
    add = ("schedule", "add", "s", "--cron", "0 2 * * *", *home)
    assert "--bogus" in call(*add, "--", "--bogus", "1", code=2).stderr
    assert "--name" in call(*add, "--", "--name", "x", code=2).stderr
    call(*add, "--", "--budget", "3", *QUICK)
    assert "exists already" in call(*add, code=2).stderr
    call("schedule", "pause", "s", *home)
    (row,) = call_json("schedule", "list", *home)
    assert (row["paused"], row["flags"]) == (True, ["--budget", "3", *QUICK])
    assert call_json("schedule", "history", "s", *home) == []
    daemon = subprocess.Popen(command("schedule", "run", *home), stderr=subprocess.PIPE, env=environment(), text=True)
    assert daemon.stderr is not None
    daemon.stderr.readline()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) in (0, -signal.SIGTERM)
    call("schedule", "remove", "s", *home)
    assert "no schedule" in call("schedule", "history", "s", *home, code=2).stderr
