"""Each route, as a client sees it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urljoin

import pytest
from sqlalchemy import create_engine

from objectives import demo
from search.api.supervisor import Supervisor
from search.catalog import Catalog
from search.catalog.submissions import SubmissionRecord, move, submissions
from search.result import result_document
from search.spec import SearchSpec
from tests.api.conftest import FACTS, Service, record_search
from tests.waiting import wait_for


def test_a_search_is_shown_as_the_command_line_shows_it(service: Service) -> None:
    client = service.client("read")
    document = result_document(service.catalog, service.catalog.search("demo"))
    assert client.get("/searches/demo").json() == json.loads(json.dumps(document))
    assert client.get("/searches/demo/front").json()["front"] == document["front"]
    (row,) = client.get("/searches").json()
    assert (row["search"], row["status"], row["front"], row["best"]) == ("demo", "complete", 2, 0.7)


def test_searches_come_page_by_page(service: Service) -> None:
    for name in ("second", "third"):
        record_search(service.catalog, service.home, name)
    client = service.client("read")
    first = client.get("/searches", params={"limit": 2})
    assert [row["search"] for row in first.json()] == ["third", "second"]
    assert first.headers["Link"] == '<?limit=2&after=second>; rel="next"'
    last = client.get(urljoin("/searches?limit=2", first.links["next"]["url"]))
    assert [row["search"] for row in last.json()] == ["demo"]
    assert "Link" not in last.headers
    unknown = client.get("/searches", params={"after": "gone"})
    assert (unknown.status_code, unknown.json()["detail"][:24]) == (404, "no search is named 'gone")
    for limit in (0, 1001):
        assert client.get("/searches", params={"limit": limit}).status_code == 422


def test_submissions_come_page_by_page(service: Service) -> None:
    client = service.client()
    for name in ("first", "second", "third"):
        assert client.post("/searches", json={"name": name}).status_code == 202
    page = client.get("/submissions", params={"limit": 2})
    assert [each["name"] for each in page.json()] == ["third", "second"]
    assert page.headers["Link"] == '<?limit=2&after=second>; rel="next"'
    last = client.get(urljoin("/submissions?limit=2", page.links["next"]["url"]))
    assert [each["name"] for each in last.json()] == ["first"]
    assert "Link" not in last.headers

    assert move(service.catalog, "second", "queued", "canceled")
    assert client.post("/searches", json={"name": "second"}).status_code == 202, "again, so that it is the newest"
    again = client.get("/submissions", params={"limit": 2, "after": "second"})
    assert [each["name"] for each in again.json()] == ["third", "first"], "those before it are missed by nobody"

    unknown = client.get("/submissions", params={"after": "gone"})
    assert (unknown.status_code, unknown.json()["detail"]) == (
        404,
        "nothing was submitted under the name 'gone': see /submissions",
    )
    for limit in (0, 1001):
        assert client.get("/submissions", params={"limit": limit}).status_code == 422


def test_what_is_submitted_waits_with_its_settings(service: Service) -> None:
    client = service.client()
    asked = {"data": str(service.root / "data"), "budget": 3, "ranks": [8, 4, 8], "gradient_checkpointing": True}
    asked |= {"groups": ["q_proj", "o_proj"], "baseline": "q_proj r8"}
    answer = client.post("/searches", json=asked | {"name": "mine"})
    assert answer.status_code == 202
    submission = answer.json()
    assert (submission["name"], submission["status"], submission["token"]) == ("mine", "queued", "write")
    assert submission["settings"] == asked | {"ranks": [4, 8]}
    assert client.get("/submissions/mine").json() == submission
    assert client.get("/submissions").json() == [submission]
    assert client.post("/searches", json={"data": asked["data"]}).json()["name"] == "data"
    assert client.post("/searches", json={"data": asked["data"]}).json()["name"] == "data-2"
    gone = client.get("/searches/mine")
    assert (gone.status_code, gone.json()["detail"]) == (
        404,
        "search mine is queued and has not begun: see its submission",
    )


@pytest.mark.parametrize(
    ("method", "path", "code", "sentence", "allow"),
    [
        (
            "GET",
            "/search/demo",
            404,
            "/search/demo is no path of this server: GET /openapi.json describes those there are",
            None,
        ),
        (
            "GET",
            "/searches/a%2Fb",
            404,
            "/searches/a/b is no path of this server: GET /openapi.json describes those ",
            None,
        ),
        # A redirect would be to http, also behind a proxy that speaks https.
        ("GET", "/searches/demo/", 404, "/searches/demo/ is no path of this server: GET /openapi.json ", None),
        ("POST", "/searches/", 404, "/searches/ is no path of this server: GET /openapi.json ", None),
        (
            "DELETE",
            "/searches/demo",
            405,
            "/searches/demo does not take DELETE: GET /openapi.json describes what ",
            "GET, HEAD",
        ),
        ("DELETE", "/searches", 405, "/searches does not take DELETE: GET /openapi.json ", "GET, HEAD, POST"),
        ("GET", "/searches/demo/cancel", 405, "/searches/demo/cancel does not take GET: GET /openapi.json ", "POST"),
        ("GET", "/searches?afer=a", 422, "query parameter 'afer' is not known: this path takes limit and after", None),
        ("POST", "/searches/demo/cancel?now", 422, "query parameter 'now' is not known: this path takes none", None),
    ],
)
def test_a_route_that_is_not_there_is_told_in_one_sentence(
    service: Service, method: str, path: str, code: int, sentence: str, allow: str | None
) -> None:
    answer = service.client().request(method, path, follow_redirects=False)
    assert answer.status_code == code
    assert answer.json()["detail"].startswith(sentence)
    assert answer.headers.get("Allow") == allow


@pytest.mark.parametrize(
    "path", ["/health", "/searches", "/searches/demo", "/searches/demo/front", "/searches/none", "/submissions"]
)
def test_a_head_is_answered_as_a_get_would_be(service: Service, path: str) -> None:
    """As of a load balancer that asks for the server's health."""
    client = service.client("read")
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.headers) == (get.status_code, get.headers)


def test_a_catalog_that_does_not_answer_is_no_fault_of_the_token(service: Service) -> None:
    client = service.client("read")
    service.catalog.close()
    file = service.home.folder / "search.db"
    file.unlink()
    file.mkdir()
    answer = client.get("/searches")
    assert (answer.status_code, answer.json()["detail"]) == (
        503,
        "the catalog does not answer now: try again later, or look into the server's log",
    )


@pytest.mark.parametrize(
    ("asked", "code", "sentence"),
    [
        *(
            (body, 400, "the body is no JSON: send an object of settings")
            for body in (b"{x", b'{"name": "\xff"}', b"[" * 20_000, b'{"budget": %s}' % (b"9" * 5000))
        ),
        (b"", 422, "the body is missing: send an object of settings, {} for the defaults"),
        ([8], 422, "the body is [8]: send an object of settings, {} for the defaults"),
        ({"budget": 0}, 422, "budget is 0: input should be greater than or equal to 1"),
        ({"budget": "3"}, 422, "budget is '3': input should be a valid integer"),
        ({"storage": "sqlite:///x"}, 422, "storage is 'sqlite:///x': extra inputs are not permitted"),
        ({"home": "/"}, 422, "home is '/': extra inputs are not permitted"),
        ({"tracking_uri": "http://x"}, 422, "tracking_uri is 'http://x': extra inputs are not permitted"),
        ({"ray_address": "x:1"}, 422, "ray_address is 'x:1': extra inputs are not permitted"),
        ({"adapters": "s3://x"}, 422, "adapters is 's3://x': extra inputs are not permitted"),
        ({"trust_remote_code": True}, 422, "trust_remote_code is True: extra inputs are not permitted"),
        ({"strategy": "luck"}, 422, "strategy luck is unknown: choose one of auto, "),
        (
            {"engine": "openai"},
            422,
            "engine openai needs the address of a server: give endpoint http://127.0.0.1:8000",
        ),
        ({"max_tpot_ratio": 0.5}, 422, "max_tpot_ratio is 0.5: input should be greater than or equal to 1"),
        ({"model": "org/model"}, 422, "model 'org/model' is no absolute path of something in a folder that this "),
        ({"engine": "openai", "endpoint": "http://h"}, 422, "endpoint 'http://h' is none that this server may ask "),
        ({"template": "a\0{text}"}, 422, "template 'a\\x00{text}' holds a NUL character: leave it out"),
        ({"name": "demo"}, 409, "a search named 'demo' exists already: choose another name, or resume it"),
    ],
)
def test_a_wrong_request_is_told_in_one_sentence(service: Service, asked: Any, code: int, sentence: str) -> None:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    answer = service.client().post("/searches", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"][: len(sentence)]) == (code, sentence)
    assert service.client().get("/submissions").json() == []


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded"])
def test_json_that_is_not_called_so_is_told_how(service: Service, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    for path in ("/searches", "/searches/demo/resume"):
        answer = service.client().post(path, content=b'{"budget": 3}', headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (
            422,
            f"the body's Content-Type is '{kind or 'none'}': send JSON, and the header Content-Type: application/json",
        )


def test_a_large_or_endless_body_is_not_read(service: Service) -> None:
    client = service.client()
    for content in (b" " * 70_000, iter([b"{", b"}"])):
        answer = client.post("/searches", content=content)
        assert answer.status_code == 413
        assert answer.json()["detail"] == "the body must say its length, and have 65536 bytes at most"


def test_one_name_is_queued_once(service: Service) -> None:
    client = service.client()
    assert client.post("/searches", json={"name": "a"}).status_code == 202
    twice = client.post("/searches", json={"name": "a"})
    assert (twice.status_code, twice.json()["detail"]) == (
        409,
        "search a is queued already: wait for it, or choose another name",
    )
    assert client.post("/searches/a/cancel").json()["status"] == "canceled"
    again = client.post("/searches/a/cancel")
    assert again.json()["detail"] == "search a is neither queued nor running here: its submission is canceled"
    assert client.post("/searches", json={"name": "a"}).json()["status"] == "queued"


def test_those_who_give_no_name_at_the_same_moment_get_one_each(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, read = service.client(), threading.Semaphore(0)

    def noted(catalog: Catalog) -> list[SubmissionRecord]:
        found = submissions(catalog)
        read.release()
        return found

    monkeypatch.setattr("search.api.routes.submissions", noted)
    engine = create_engine(service.catalog.url)
    with engine.connect() as writing, ThreadPoolExecutor() as pool:
        writing.exec_driver_sql("BEGIN IMMEDIATE")  # all have read what is taken before one can write
        answers = [pool.submit(client.post, "/searches", json={"budget": 1}) for _ in range(4)]
        assert all(read.acquire(timeout=20) for _ in answers)
        writing.exec_driver_sql("ROLLBACK")
    engine.dispose()
    assert {answer.result().status_code for answer in answers} == {202}
    names = {answer.result().json()["name"] for answer in answers}
    assert (
        names
        == {each["name"] for each in client.get("/submissions").json()}
        == {"demo-2", "demo-3", "demo-4", "demo-5"}
    )


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("model", "org/model", "model 'org/model' is no absolute path of something in a folder that this server may "),
        (
            "data",
            "/etc/passwd",
            "data '/etc/passwd' is no absolute path of something in a folder that this server may ",
        ),
        ("endpoint", "http://h", "endpoint 'http://h' is none that this server may ask "),
        (
            "trust_remote_code",
            True,
            "search other runs code that its model brings, which no request may: resume it where it was started, with "
            "`python -m search resume other --home {home}`",
        ),
        (
            "adapters",
            "s3://bucket",
            "search other has adapters 's3://bucket', which is not this server's: resume it where it was started, with "
            "`python -m search resume other --home {home}`",
        ),
        ("ray_address", "x:1", "search other has ray_address 'x:1', which is not this server's: resume it where "),
    ],
)
def test_a_search_that_no_request_could_make_is_not_resumed_by_one(
    service: Service, setting: str, value: Any, sentence: str
) -> None:
    service.catalog.create_search("other", SearchSpec(steps=200, budget=2).to_json() | {setting: value}, FACTS)
    sentence = sentence.format(home=service.home.folder)
    answer = service.client().post("/searches/other/resume")
    assert (answer.status_code, answer.json()["detail"][: len(sentence)]) == (422, sentence)
    assert service.client().get("/submissions").json() == []


def test_a_search_with_the_servers_own_places_is_resumed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_RAY_ADDRESS", "x:1")
    monkeypatch.setenv("SEARCH_ADAPTERS", str(service.root / "adapters"))
    places = {"ray_address": "x:1", "adapters": str(service.root / "adapters")}
    places |= {"model": str(demo.model_dir()), "data": str(service.root / "data")}
    service.catalog.create_search("mine", SearchSpec(steps=200, budget=2).to_json() | places, FACTS)
    assert service.client().post("/searches/mine/resume").status_code == 202


def test_a_search_is_resumed_to_a_larger_budget(service: Service) -> None:
    client = service.client()
    few = client.post("/searches/demo/resume", json={"budget": 1})
    assert few.json()["detail"] == "budget 1 is below the 2 trials that search demo has: give more"
    assert client.post("/searches/demo/resume", json={"budget": 2}).status_code == 202, "what is stopped may go on"
    assert client.post("/searches/demo/cancel").status_code == 202
    answer = client.post("/searches/demo/resume", json={"budget": 5, "max_hours": 2})
    assert (answer.status_code, answer.json()["kind"], answer.json()["settings"]) == (
        202,
        "resume",
        {"budget": 5, "max_hours": 2},
    )
    assert client.post("/searches/demo/resume").status_code == 409
    assert client.post("/searches/other/resume").status_code == 404


def test_a_search_of_the_command_line_cannot_be_canceled(service: Service) -> None:
    answer = service.client().post("/searches/demo/cancel")
    assert answer.status_code == 409
    assert answer.json()["detail"] == "search demo was not started by this server: stop it where it was started"


def test_what_an_earlier_server_left_running_cannot_be_canceled(service: Service) -> None:
    client = service.client()
    client.post("/searches", json={"name": "left"})
    assert move(service.catalog, "left", "queued", "running")
    assert move(service.catalog, "left", "running", "queued"), "as a server does that starts after one that was killed"
    search = service.catalog.create_search("left", SearchSpec(steps=200, budget=2).to_json(), FACTS)
    with closing(Catalog(service.home.storage)) as other:
        assert other.take(search.id) is None
        answer = client.post("/searches/left/cancel")
        assert answer.status_code == 409
        assert "which an earlier server began: end that process" in answer.json()["detail"]
        assert client.get("/submissions/left").json()["status"] == "queued"
        other.release(search.id)
    assert client.post("/searches/left/cancel").json()["status"] == "canceled"


def test_what_cannot_be_started_fails_alone(service: Service) -> None:
    """As on a full disk: here the folder of logs is a file."""
    (service.home.folder / "logs").write_text("not a folder")
    client = service.client()
    assert client.post("/searches", json={"name": "first", "budget": 2}).status_code == 202
    supervisor = Supervisor(service.catalog, service.home, at_once=1)
    supervisor.start()
    wait_for(lambda: client.get("/submissions/first").json()["status"] == "failed")
    assert client.get("/submissions/first").json()["error"].startswith("cannot be started (File exists: ")
    assert supervisor._thread.is_alive(), "and what comes after it is looked at"
    supervisor.stop()
