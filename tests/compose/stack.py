"""docker-compose.yml as plain processes: each service's own command, environment and health check, on this machine.

Host names become 127.0.0.1, ports free ones, and folders of the containers folders of the test.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.commands import free_ports
from tests.waiting import wait_for

FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"
ADDRESSES = ("postgres:5432", "s3:9000", "mlflow:5000", "ray-head:6379", "api:8321")
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([?-])([^}]*))?\})")


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return document


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """As the compose specification says. Raises KeyError with the file's own sentence for a variable that is needed."""
    if isinstance(value, dict):
        return {key: interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        name, kind, text = found.groups()
        if name is None:
            return "$"
        if not variables.get(name) and kind == "?":
            raise KeyError(f"{name}: {text}")
        return variables.get(name) or text or ""

    return _VARIABLE.sub(fill, value)


class Stack:
    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.services: dict[str, Any] = interpolated(compose(), variables)["services"]
        self.ports = dict(zip(ADDRESSES, free_ports(len(ADDRESSES)), strict=True))
        self.mark = f"STACK_OF_TEST={uuid.uuid4().hex}"
        self.programs = Path(sys.executable).parent  # where psql is
        # Ray notes the machine's cluster in its folder, and sockets need short paths.
        self.ray = tempfile.mkdtemp(prefix="ray-")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, text: str) -> str:
        for address, port in self.ports.items():
            host, _, known = address.partition(":")
            text = re.sub(
                rf"\b{host}:{known}\b|\b(0\.0\.0\.0|127\.0\.0\.1|localhost):{known}\b", f"127.0.0.1:{port}", text
            )
            text = re.sub(rf"(--port[= ]){known}\b", rf"\g<1>{port}", text)
            text = re.sub(rf"-h {host} -p {known}\b", f"-h 127.0.0.1 -p {port}", text)
        text = text.replace("0.0.0.0", "127.0.0.1")
        for place in ("/var/lib/search", "/srv/models", "/srv/data"):
            text = text.replace(place, str(self.folder / Path(place).name))
        return re.sub(r"^/data$", str(self.folder / "s3"), text)

    def command(self, service: str) -> list[str]:
        words = self.services[service]["command"]
        if self.services[service]["image"].startswith("rclone/"):
            words = ["rclone", *words]  # the entry point of that image
        moved = []
        for before, word in zip(["", *words], words, strict=False):
            port = next((p for known, p in self.ports.items() if known.endswith(f":{word}")), None)
            moved.append(str(port) if before == "--port" and port else self.here(word))
        return moved

    def environment(self, service: str) -> dict[str, str]:
        name, _, value = self.mark.partition("=")
        path = os.pathsep.join([str(Path(sys.executable).parent), str(self.programs), os.environ["PATH"]])
        own = {key: self.here(text) for key, text in self.services[service].get("environment", {}).items()}
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RCLONE_CONFIG": os.devnull, "RAY_TMPDIR": self.ray}
        return os.environ | quiet | own | {name: value, "PATH": path}

    def start(self, service: str) -> None:
        with (self.folder / f"{service}.log").open("wb") as log:
            self.processes[service] = subprocess.Popen(
                self.command(service),
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def check(self, service: str) -> subprocess.CompletedProcess[str]:
        """One run of the service's own health check."""
        kind, *words = self.services[service]["healthcheck"]["test"]
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        words = [self.here(word) for word in words]
        return subprocess.run(
            words, env=self.environment(service), capture_output=True, text=True, timeout=60, cwd=self.folder
        )

    def wait(self, service: str, seconds: float = 90) -> None:
        process, log = self.processes.get(service), self.folder / f"{service}.log"
        done = None

        def healthy() -> bool:
            nonlocal done
            done = self.check(service)
            return done.returncode == 0

        def told() -> str:
            return f"{service}: {done and done.stderr[-1000:]}\n{log.read_text()[-3000:] if log.exists() else ''}"

        wait_for(healthy, seconds, alive=lambda: process is None or process.poll() is None, told=told, pause=0.3)

    def wait_for_log(self, service: str, words: str) -> None:
        """Of a service without a health check; compose would start it again if it ended."""
        process, log = self.processes[service], self.folder / f"{service}.log"
        wait_for(
            lambda: words in log.read_text(),
            90,
            alive=lambda: process.poll() is None,
            told=lambda: f"{service}: {log.read_text()[-3000:]}",
            pause=0.3,
        )

    def run(self, service: str, *words: str) -> str:
        """As ``docker compose exec``."""
        words = (sys.executable, *words[1:]) if words[0] == "python" else words
        done = subprocess.run(words, env=self.environment(service), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """Ends what was started and all that this started: a mark in the environment tells them from others."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 15
        while any(process.poll() is None for process in self.processes.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
        shutil.rmtree(self.ray, ignore_errors=True)
