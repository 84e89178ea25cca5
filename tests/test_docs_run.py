"""Pages that are programs run as they are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.commands import environment
from tests.test_docs import ROOT, blocks


def test_the_python_page_runs(tmp_path: Path) -> None:
    program = "\n".join(blocks(ROOT / "docs" / "python.md", "python"))
    # Ray's workers import the modules of the package: from the checkout, wherever the page runs.
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "times the base model's TPOT" in done.stdout
    assert (tmp_path / "from-python.html").stat().st_size > 100_000
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
