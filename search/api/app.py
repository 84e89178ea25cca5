"""The application: its state, its routes, and one sentence for whatever goes wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match

from objectives.errors import RequestError, StoreError, UnknownSearch
from search.api.auth import token_of
from search.api.events import Watched
from search.api.routes import ROUTERS, state_of
from search.api.supervisor import Supervisor
from search.catalog.store import Catalog
from search.home import Home

LARGEST_BODY = 64 * 1024
#: All that may be asked without a token.
OPEN = frozenset({"/health"})
_NO_JSON = "the body is no JSON: send an object of settings"
_log = logging.getLogger(__name__)


def application(
    catalog: Catalog, home: Home, supervisor: Supervisor, *, roots: Sequence[Path] = (), endpoints: Sequence[str] = ()
) -> FastAPI:
    """``roots`` are the folders that requests may name models and data in, ``endpoints`` the serving engines."""
    app = FastAPI(
        title="LoRA target search",
        version=version("lora-target-search"),
        description="Searches the placements of LoRA adapters for the front of accuracy against serving latency.",
        # Pages that load scripts from elsewhere; the description itself is behind a token, see routes.py.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # To an address that is made of the request's, which behind a proxy with TLS is none of this server's.
        redirect_slashes=False,
    )
    app.state.catalog, app.state.home, app.state.supervisor = catalog, home, supervisor
    app.state.roots, app.state.endpoints = tuple(roots), tuple(endpoints)
    app.state.watched = Watched(partial(state_of, catalog))
    for router in ROUTERS:
        app.include_router(router)
    app.middleware("http")(_guard)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(RequestError)(_refused)
    app.exception_handler(HTTPException)(_turned_away)
    return app


async def _guard(request: Request, forward: Callable[[Request], Awaitable[Response]]) -> Response:
    """Lets nobody without a token past, and writes who asked for what: never a header, a query or a body."""
    began = time.monotonic()
    request.state.token = None
    try:
        response = await _turned_down(request) or await forward(request)
    except StoreError as error:
        response = await _refused(request, error)
    who = request.state.token.name if request.state.token else "-"
    milliseconds = 1000 * (time.monotonic() - began)
    _log.info("%s %r %d %s %.0f ms", request.method, _path(request), response.status_code, who, milliseconds)
    return response


def _path(request: Request) -> str:
    """By which a route is looked for; that of the request's URL lacks white space, and may follow the header Host."""
    path: str = request.scope["path"]
    return path


async def _turned_down(request: Request) -> Response | None:
    """Before anything of the request but its head is read."""
    if _path(request) in OPEN:
        return None
    request.state.token = await run_in_threadpool(token_of, request)
    if request.state.token is None:
        sentence = "a valid bearer token is needed: make one with `python -m search token add NAME --scope read|write`"
        return JSONResponse({"detail": sentence}, 401, {"WWW-Authenticate": "Bearer"})
    length = request.headers.get("content-length", "0")
    chunked = "transfer-encoding" in request.headers
    if chunked or not (length.isascii() and length.isdigit()) or int(length) > LARGEST_BODY:
        return _problem(413, f"the body must say its length, and have {LARGEST_BODY} bytes at most")
    return None


def _problem(code: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, code)


async def _invalid(request: Request, error: Exception) -> Response:
    """The first complaint; a value is shown in short, as Python writes it, which every encoding holds."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _problem(400, _NO_JSON)
    if isinstance(first["input"], bytes):  # it was not read as JSON, since nothing says that it is
        kind = ascii(request.headers.get("content-type", "none"))
        return _problem(
            422, f"the body's Content-Type is {kind}: send JSON, and the header Content-Type: application/json"
        )
    shown = ascii(first["input"])
    shown = shown if len(shown) <= 100 else shown[:97] + "..."
    where = ".".join(str(part) for part in first["loc"][1:])
    if not where:  # none at all, or JSON of another kind
        what = "missing" if first["type"] == "missing" else shown
        return _problem(422, f"the body is {what}: send an object of settings, {{}} for the defaults")
    return _problem(422, f"{ascii(where)[1:-1]} is {shown}: {first['msg'][0].lower()}{first['msg'][1:]}")


async def _turned_away(request: Request, error: Exception) -> Response:
    """Ours as they are; where the framework has a word of its own, a sentence that says more."""
    assert isinstance(error, HTTPException)
    path = ascii(_path(request))[1:-1]
    headers = error.headers
    if error.status_code == 400:  # as of other encodings, or nested too deeply
        sentence = _NO_JSON
    elif error.status_code == 405:
        sentence = f"{path} does not take {request.method}: GET /openapi.json describes what it takes"
        headers = {"Allow": ", ".join(sorted(_methods(request)))}
    elif error.detail == HTTPStatus.NOT_FOUND.phrase:
        sentence = f"{path} is no path of this server: GET /openapi.json describes those there are"
    else:
        sentence = error.detail
    return JSONResponse({"detail": sentence}, error.status_code, headers)


def _methods(request: Request) -> set[str]:
    """Of all routes with this path: the framework names those of the first one alone."""
    routes = (route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute))
    here = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return set().union(*(route.methods or () for route in here))


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, StoreError):
        _log.error("%s", error)
        return _problem(503, "the catalog does not answer now: try again later, or look into the server's log")
    code = 404 if isinstance(error, UnknownSearch) else 422
    return _problem(code, str(error).encode("utf-8", "backslashreplace").decode())
