"""PostgreSQL that goes away: connections cut, answers of a COMMIT lost, the server stopped and started again."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import optuna
import pytest
from sqlalchemy import create_engine, make_url, text

from objectives.placement import Placement
from search.catalog import Catalog
from search.catalog.outbox import pending
from search.strategy.space import PlacementSpace
from search.study import Study

O_PROJ = Placement.of(["o_proj"], 8)
SPACE = PlacementSpace(("k_proj", "o_proj", "q_proj"), (4, 8))


class Proxy:
    """Between client and server; once armed, it passes on one COMMIT and cuts before the answer."""

    def __init__(self, socket_file: str | None, host: str | None, port: int) -> None:
        self._upstream = (socket_file, host, port)
        self.armed = threading.Event()
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                socket_file, host, port = self._upstream
                if socket_file:
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(socket_file)
                else:
                    server = socket.create_connection((host or "127.0.0.1", port))
                threading.Thread(target=self._upward, args=(client, server), daemon=True).start()

    def _upward(self, client: socket.socket, server: socket.socket) -> None:
        cut = threading.Event()
        threading.Thread(target=self._downward, args=(client, server, cut), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT" in data and self.armed.is_set():
                    self.armed.clear()
                    self.cuts += 1
                    cut.set()
                server.sendall(data)
            server.close()

    def _downward(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():
                    break
                client.sendall(data)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(postgres: str) -> Iterator[tuple[str, Proxy]]:
    url = make_url(postgres)
    folder, port = url.query.get("host"), url.port or 5432
    proxy = Proxy(f"{folder}/.s.PGSQL.{port}" if folder else None, url.host, port)
    yield url.set(host="127.0.0.1", port=proxy.port, query={}).render_as_string(hide_password=False), proxy
    proxy.close()


def test_a_commit_whose_answer_was_lost_is_applied_once(proxy: tuple[str, Proxy]) -> None:
    url, between = proxy
    catalog = Catalog(url)
    between.armed.set()
    search = catalog.create_search("s", {}, {})
    between.armed.set()
    catalog.add_trial(search.id, 0, O_PROJ, None)
    between.armed.set()
    assert catalog.record(search.id, 0, "failed", reason="r", measurement=None)
    between.armed.set()
    catalog.set_status(search.id, "complete", elapsed_s=2.0)
    assert between.cuts == 4
    assert catalog.search("s").elapsed_s == 2.0
    assert [row.kind for row in pending(catalog)] == ["search", "trial", "result"]
    assert [trial.status for trial in catalog.trials(search.id)] == ["failed"]
    catalog.close()


def test_a_trial_asked_for_whose_answer_was_lost_is_the_one_used(proxy: tuple[str, Proxy]) -> None:
    url, between = proxy
    Catalog(url).close()
    study = Study(url, "s", SPACE, strategy="random", references=[], budget=9, seed=0)
    tried = []
    for cut in (True, False, True):
        if cut:
            between.armed.set()
        asked = study.ask()
        assert asked
        tried.append(asked[1])
        if cut:
            between.armed.set()
        study.tell(asked[0], "complete", {"validation": {"accuracy": 0.5}, "latency": {"ratio": 1.1}})
    assert between.cuts == 4
    kept = optuna.load_study(study_name="s", storage=url).trials
    assert [trial.state.name for trial in kept] == ["COMPLETE"] * 3


def test_connections_that_the_server_ends_are_made_anew(postgres: str) -> None:
    catalog, admin = Catalog(postgres), create_engine(postgres)
    search = catalog.create_search("s", {}, {})
    study = Study(catalog.url, search.id, SPACE, strategy="random", references=[], budget=9, seed=0)
    with admin.begin() as connection, catalog.sole("search s") as alone:
        assert alone
        connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
        asked = study.ask()
        assert asked
        catalog.add_trial(search.id, *asked, None)
    assert len(catalog.trials(search.id)) == 1
    catalog.close()
    admin.dispose()
