"""A daemon as a process of its own, on a clock in a file, whose nights only note that they were there."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path

from search.catalog.records import NightRecord, ScheduleRecord
from search.catalog.store import Catalog
from search.schedule import Daemon

#: Starts anew only once; goes on, as ``search resume`` does, with what there is.
NIGHT = """
import sys, time
from pathlib import Path
folder, name, again, seconds = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True", float(sys.argv[4])
if not again:
    (folder / f"{name}.begun").open("x").close()
time.sleep(seconds)
if not (again and (folder / f"{name}.done").exists()):
    (folder / f"{name}.done").open("x").close()
"""


def main(home: Path, seconds: str) -> None:
    def now() -> datetime:
        (home / f"{os.getpid()}.up").touch()  # it waits for its end from before it first asks
        return datetime.fromisoformat((home / "clock").read_text())

    def command(schedule: ScheduleRecord, night: NightRecord, again: bool) -> list[str]:
        return [sys.executable, "-S", "-c", NIGHT, str(home), night.search, str(again), seconds]

    catalog = Catalog(f"sqlite:///{home / 'search.db'}")
    Daemon(catalog, home / "nights", command, now=now, poll_s=0.02, lease_s=1.0).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
