"""Ray for one search, whatever else is on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def test_a_search_of_this_machine_needs_no_cluster_that_ran_here() -> None:
    """`ray start` leaves a note of its cluster; Ray's own default would join that, and fail."""
    program = "import cluster.session as s\nwith s.ray_session(1, None) as ready: ready()\nprint('ready')"
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short, since sockets lie in it
        note = Path(folder) / "ray" / "ray_current_cluster"
        note.parent.mkdir()
        note.write_text("127.0.0.1:1")
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.strip() == "ready", done.stderr
