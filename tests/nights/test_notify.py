"""Notifications, to a real server that fails at first."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from search.notify import notify, redacted


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


def test_a_server_that_fails_twice_hears_it_the_third_time(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, texts = server
    monkeypatch.setenv("HOOK", url)
    assert notify("env:HOOK", "night s: complete", (0.01, 0.01))
    assert texts == ["night s: complete"] * 3


def test_the_url_is_never_shown(server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = server
    assert not notify(url, "x", (0.01,))
    assert not notify("env:NO_SUCH_VARIABLE", "x", ())
    assert "secret" not in capsys.readouterr().err
    assert redacted(url) == "***"
