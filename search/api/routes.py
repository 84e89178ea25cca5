"""The routes. Each stands on one of three routers, and so has an answer to who may use it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Body, Depends, Header, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from objectives import demo
from objectives.errors import RequestError, StoreError, UnknownSearch
from search import outside
from search.admission import free_name
from search.api import models
from search.api.auth import requires
from search.api.events import events
from search.catalog.pages import page, submissions_page
from search.catalog.records import SearchRecord
from search.catalog.store import Catalog
from search.catalog.submissions import OPEN, SubmissionRecord, submission, submissions, submit
from search.export import export_adapter
from search.result import result_document, result_rows, standing
from search.spec import SearchSpec, with_absolute_paths

_TELLS = {
    400: "The body is no JSON.",
    401: "No valid token.",
    403: "The token's scope is not enough.",
    404: "Nothing of this name.",
    409: "Not in the state that it is in now.",
    413: "The body is too large.",
    422: "A value makes no sense.",
    503: "The catalog does not answer.",
}


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": models.Problem, "description": _TELLS[code]} for code in codes}


def known_query(request: Request) -> None:
    """422 for a parameter that the path does not take: an answer that passed over ?limt=5 would not say so."""
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        takes = f"takes {' and '.join(known)}" if known else "takes none"
        raise HTTPException(422, f"query parameter {ascii(unknown)[:80]} is not known: this path {takes}")


def _needs(scope: str) -> list[Any]:
    return [Depends(requires(scope)), Depends(known_query)]


anyone = APIRouter()
reads = APIRouter(dependencies=_needs("read"), responses=_problems(401, 403, 422, 503))
writes = APIRouter(dependencies=_needs("write"), responses=_problems(401, 403, 413, 422, 503))

Name = Annotated[
    str, InPath(pattern=f"^{outside.NAME}$", description="Name of a search.", openapi_examples={"a": {"value": "demo"}})
]


@contextmanager
def refused(code: int) -> Iterator[None]:
    """What cannot be had is answered with `code`; a store that refuses is no fault of the request."""
    try:
        yield
    except StoreError:
        raise
    except RequestError as error:
        raise HTTPException(code, str(error)) from None


def _search(request: Request, name: str) -> SearchRecord:
    """404 for an unknown one, also where it was submitted and has not begun."""
    catalog = request.app.state.catalog
    try:
        search: SearchRecord = catalog.search(outside.name(name))
    except UnknownSearch:
        if asked := submission(catalog, name):
            raise HTTPException(404, f"search {name} is {asked.status} and has not begun: see its submission") from None
        raise
    catalog.follow_adapters(search.id, request.app.state.home.adapters(search))
    return search


@anyone.get("/health", summary="Whether the server answers")
def health() -> models.Health:
    return models.Health(status="ok")


@reads.get("/openapi.json", include_in_schema=False)
def description(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document


@writes.post("/searches", status_code=202, summary="Submit a search", responses=_problems(400, 409))
def submit_search(request: Request, settings: models.SearchRequest) -> models.Submission:
    """Checked at once and queued; data and model are read when it starts, and what is wrong with them is then the
    submission's `error`."""
    state = request.app.state
    given = _allowed(request, settings.model_dump(exclude_none=True))
    with _named_as_fields():
        given = {key: value for key, value in SearchSpec.from_json(given).to_json().items() if key in given}
    if name := given.pop("name", None):
        if state.catalog.find(name) is not None:
            raise HTTPException(409, f"a search named {name!r} exists already: choose another name, or resume it")
        return _submitted(request, name, "run", given)
    taken = state.catalog.names() | {each.name for each in submissions(state.catalog)}
    stem = "-".join(Path(given[key]).stem for key in ("model", "data") if key in given) or "demo"
    while True:
        name = free_name(stem, taken)
        try:
            return _submitted(request, name, "run", given)
        except HTTPException:  # another request has taken the free name at the same moment
            taken.add(name)


def _allowed(request: Request, settings: dict[str, Any]) -> dict[str, Any]:
    """With full paths. Raises RequestError for a model, data set or serving engine that is none of this server's."""
    state = request.app.state
    full = dict(settings)
    for field in ("model", "data"):
        if full.get(field) is not None:
            full[field] = outside.path(full[field], state.roots, field)
    if full.get("endpoint") is not None:
        outside.endpoint(full["endpoint"], state.endpoints)
    return full


_FLAGS = re.compile(rf"--({'|'.join(models.SearchRequest.model_fields).replace('_', '-')})\b")


@contextmanager
def _named_as_fields() -> Iterator[None]:
    """What the command line says of its flags is said of the body's fields."""
    try:
        yield
    except RequestError as error:
        raise RequestError(_FLAGS.sub(lambda flag: flag[1].replace("-", "_"), str(error))) from None


def _submitted(request: Request, name: str, kind: str, settings: dict[str, Any]) -> models.Submission:
    with refused(409):
        record = submit(request.app.state.catalog, name, kind, settings, request.state.token.name)
    request.app.state.supervisor.notify()
    return _shown(record)


def _shown(record: SubmissionRecord) -> models.Submission:
    return models.Submission(**asdict(record))


_paged = _problems(404) | {
    200: {"headers": {"Link": {"description": 'The next page, rel="next".', "schema": {"type": "string"}}}}
}
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
After = Annotated[
    str | None, Query(pattern=f"^{outside.NAME}$", description="Name of the last one of the page before.")
]


def _link_next(response: Response, limit: int, last: str) -> None:
    # The query alone, since a proxy may have put a path in front.
    response.headers["Link"] = f'<?{urlencode({"limit": limit, "after": last})}>; rel="next"'


@reads.get("/searches", summary="Searches, newest first, page by page", responses=_paged)
def list_searches(
    request: Request, response: Response, limit: Limit = 100, after: After = None
) -> list[models.SearchRow]:
    catalog = request.app.state.catalog
    found, more = page(catalog, limit, after)
    if more:
        _link_next(response, limit, found[-1].name)
    return [models.SearchRow(**row) for row in result_rows(catalog, found)]


@reads.get("/submissions", summary="What was submitted, newest first, page by page", responses=_paged)
def list_submissions(
    request: Request, response: Response, limit: Limit = 100, after: After = None
) -> list[models.Submission]:
    last = None if after is None else _submission(request, after)
    found, more = submissions_page(request.app.state.catalog, limit, last)
    if more:
        _link_next(response, limit, found[-1].name)
    return [_shown(record) for record in found]


@reads.get("/submissions/{name}", summary="One submission", responses=_problems(404))
def show_submission(request: Request, name: Name) -> models.Submission:
    return _shown(_submission(request, name))


def _submission(request: Request, name: str) -> SubmissionRecord:
    record = submission(request.app.state.catalog, outside.name(name))
    if record is None:
        raise HTTPException(404, f"nothing was submitted under the name {name!r}: see /submissions")
    return record


@reads.get("/searches/{name}", summary="The result so far", responses=_problems(404))
def show(request: Request, name: Name) -> models.Result:
    return models.Result(**result_document(request.app.state.catalog, _search(request, name)))


@reads.get("/searches/{name}/front", summary="The front so far", responses=_problems(404))
def front(request: Request, name: Name) -> models.Front:
    document = result_document(request.app.state.catalog, _search(request, name))
    return models.Front(**{field: document[field] for field in models.Front.model_fields})


def state_of(catalog: Catalog, name: str) -> dict[str, Any]:
    """What those who watch a search are told; ``over`` once nothing more will come."""
    asked = submission(catalog, name)
    try:
        search = catalog.search(name)
    except UnknownSearch:
        if asked is None:
            raise
        return {"status": asked.status, "error": asked.error, "over": asked.status not in OPEN}
    stands = standing(catalog, search)
    waiting = asked is not None and asked.status in OPEN
    over = stands["status"] != "running" and not waiting
    # What a submission failed of is no word on a search that somebody has continued since.
    goes_on = stands["status"] in ("running", "complete")
    return stands | {"error": asked.error if asked and not goes_on else None, "over": over}


@reads.get(
    "/searches/{name}/events",
    summary="Watch a search",
    response_class=StreamingResponse,
    responses=_problems(404)
    | {200: {"description": "Server-sent events until the search ends.", "content": {"text/event-stream": {}}}},
)
def watch(
    request: Request,
    name: Name,
    last_event_id: Annotated[
        str | None, Header(max_length=64, description="Id of the last event that was heard.")
    ] = None,
) -> StreamingResponse:
    """Events `progress` and, at last, `end`: status, how many trials are done, and the front so far."""
    look = partial(request.app.state.watched, name)
    look()  # an unknown search is refused before the stream begins
    stream: AsyncIterator[str] | tuple[()] = events(look, last_event_id) if request.method == "GET" else ()
    # Else nginx gathers events until they fill a buffer, or the search ends.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


@writes.post("/searches/{name}/cancel", status_code=202, summary="Stop a search", responses=_problems(404, 409))
def cancel(request: Request, name: Name) -> models.Submission:
    """As Ctrl-C: what was measured is kept, and it can be resumed. A queued one is not begun."""
    state = request.app.state
    with refused(409):
        canceled = state.supervisor.cancel(outside.name(name))
    if not canceled:
        record = submission(state.catalog, name)
        if record is None:
            _search(request, name)
            raise HTTPException(409, f"search {name} was not started by this server: stop it where it was started")
        raise HTTPException(409, f"search {name} is neither queued nor running here: its submission is {record.status}")
    return show_submission(request, name)


@writes.post(
    "/searches/{name}/resume", status_code=202, summary="Continue a search", responses=_problems(400, 404, 409)
)
def resume(
    request: Request, name: Name, settings: Annotated[models.ResumeRequest, Body(default_factory=models.ResumeRequest)]
) -> models.Submission:
    search = _search(request, name)
    _refuse_others(request, search)
    begun = len(request.app.state.catalog.trials(search.id))
    if settings.budget is not None and settings.budget < begun:
        raise RequestError(f"budget {settings.budget} is below the {begun} trials that search {name} has: give more")
    return _submitted(request, name, "resume", settings.model_dump(exclude_none=True))


def _refuse_others(request: Request, search: SearchRecord) -> None:
    """Raises RequestError for a search of the command line with settings that no request could have."""
    shipped = {"model": str(demo.model_dir()), "data": str(demo.data_dir())}  # what a request gets that names none
    _allowed(request, {key: value for key, value in search.spec.items() if value != shipped.get(key)})
    there = request.app.state.home.flags(anywhere=True)
    remedy = f"resume it where it was started, with `python -m search resume {search.name}{there}`"
    if search.spec.get("trust_remote_code"):
        raise RequestError(f"search {search.name} runs code that its model brings, which no request may: {remedy}")
    # What the server's own environment says, searches have that were submitted here.
    own = {"ray_address": os.environ.get("SEARCH_RAY_ADDRESS"), "adapters": os.environ.get("SEARCH_ADAPTERS")}
    for field, value in with_absolute_paths(own).items():
        if (given := search.spec.get(field)) and given != value:
            raise RequestError(f"search {search.name} has {field} {given!r}, which is not this server's: {remedy}")


@reads.get(
    "/searches/{name}/adapter",
    summary="Take an adapter",
    response_class=FileResponse,
    responses=_problems(404, 409)
    | {200: {"description": "A ZIP archive of safetensors and JSON.", "content": {"application/zip": {}}}},
)
def export(
    request: Request,
    name: Name,
    pick: Annotated[
        str, Query(pattern=f"^({outside.PICK})$", description="recommended, knee, best or trial=N.")
    ] = "recommended",
) -> FileResponse:
    """The folder of `python -m search export`: adapter, manifest with its evidence, model card."""
    search = _search(request, name)
    folder = Path(tempfile.mkdtemp(prefix="export-"))
    try:
        with refused(409):
            manifest = export_adapter(request.app.state.catalog, search, pick, folder / "adapter")
        archive = folder / "adapter.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for file in sorted((folder / "adapter").iterdir()):
                packed.write(file, file.name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return _Archive(archive, media_type="application/zip", filename=f"{name}-trial-{manifest['trial']}.zip")


class _Archive(FileResponse):
    """Sent whole, since the next request makes another; gone with its folder, whatever becomes of the answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["accept-ranges"] = "none"
        whole = [(key, value) for key, value in scope["headers"] if key != b"range"]
        try:
            await super().__call__({**scope, "headers": whole}, receive, send)
        finally:
            # At once, not in a thread: where the client has gone, nothing would be waited for.
            shutil.rmtree(Path(self.path).parent, ignore_errors=True)


def _answer_head(router: APIRouter) -> None:
    """HTTP asks it of whatever answers GET; the body is left out by the server below."""
    for route in list(router.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            router.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                response_class=route.response_class,
                include_in_schema=False,
            )


for each in (anyone, reads):
    _answer_head(each)
ROUTERS = (anyone, reads, writes)
