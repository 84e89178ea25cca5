"""A webhook that fails at first."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


@pytest.fixture
def answering() -> Iterator[Callable[[int], tuple[str, list[str]]]]:
    """Of a status: a server that answers it, and what it was asked, with credentials and another name if it was given
    any."""
    running: list[HTTPServer] = []

    def start(code: int) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                name = self.headers["Host"].partition(":")[0].replace("127.0.0.1", "")
                asked.append(" ".join(filter(None, [self.command, self.path, self.headers["Authorization"], name])))
                self.send_response(code)
                self.send_header("Location", "/other")
                self.end_headers()

            do_GET = do_POST  # noqa: N815  # the server's names

            def log_message(self, *_: object) -> None:
                pass

        http = HTTPServer(("127.0.0.1", 0), Handler)
        running.append(http)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{http.server_port}/secret", asked

    yield start
    for http in running:
        http.shutdown()
        http.server_close()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(500 if len(texts) < 3 else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/secret", texts
        http.shutdown()
