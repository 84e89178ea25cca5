"""Starts and ends the service."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from objectives.errors import RequestError
from search import outside
from search.catalog.alone import Alone
from search.catalog.store import Catalog
from search.catalog.tokens import tokens
from search.home import Home
from search.listening import listening

_log = logging.getLogger(__name__)


def run_server(
    home: Home,
    host: str,
    port: int,
    *,
    roots: Sequence[Path],
    endpoints: Sequence[str],
    at_once: int,
) -> None:
    """Serves until SIGINT or SIGTERM; searches that run then are interrupted, and resumed by the next server.

    Raises RequestError if the API's packages are missing, an allowed folder is none, a store has a default password,
    the port is taken, or another server works on this catalog; LeaseLost if another came while the database was away.
    """
    try:
        import uvicorn

        from search.api.app import application
        from search.api.supervisor import Supervisor
    except ImportError as error:
        raise RequestError(f"serve needs {error.name}: pip install 'lora-target-search[api]'") from error

    for root in roots:
        if not root.is_dir():
            raise RequestError(f"--allow {root} is no folder: give one that models or data lie in")
    outside.refuse_passwords_of_manuals(home.storage, "--storage")
    outside.refuse_passwords_of_manuals(home.mlflow(), "--tracking-uri")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    for logger in ("search", "uvicorn"):
        logging.getLogger(logger).setLevel(logging.INFO)
    with (
        closing(Catalog(home.storage)) as catalog,
        closing(Alone(home.storage)) as alone,
    ):
        if not alone.take():
            raise RequestError("another server works on this catalog already: stop it first, or choose another --home")
        if not tokens(catalog):
            _log.warning(
                "no token exists, so every request is turned down: make one with `python -m search token add NAME "
                "--scope read|write%s`",
                home.flags(),
            )

        def end() -> None:
            server.should_exit = True

        supervisor = Supervisor(catalog, home, at_once, check=alone.check, at_loss=end)
        app = application(catalog, home, supervisor, roots=roots, endpoints=endpoints)
        # Its access log would write queries, in which a careless client may have put a token.
        settings = uvicorn.Config(
            app, host, port, access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(settings)
        # uvicorn raises the signal that ended it once more, and SIGTERM's own way would leave the searches alone.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with ExitStack() as open_ports:
            # Before a search is begun that nobody could ask about.
            listeners = [open_ports.enter_context(each) for each in listening(host, port)]
            _log.info("listening on %s port %d", host, port)
            supervisor.start()
            try:
                server.run(listeners)
            except KeyboardInterrupt:
                _log.info("interrupting the searches that run")
            finally:
                supervisor.stop()
        if supervisor.lost is not None:
            raise supervisor.lost
