"""The truth of TTFT and TPOT, against a server that knows when it sent what."""

from __future__ import annotations

import pytest

from objectives.errors import RequestError
from objectives.latency.stream import Endpoint, answer_of
from objectives.latency.timing import Timing, percentiles
from tests.objectives.latency.scripted import Script, SharedClock, serving, truth

#: Different from request to request, so that percentiles differ.
FIRST = [0.03, 0.05, 0.04, 0.12, 0.06]
EACH = [0.008, 0.012, 0.01, 0.02, 0.009]


@pytest.mark.parametrize(
    ("bundles", "empty_first", "textless"),
    [([1], False, 0), ([3], True, 0), ([1, 4, 2], False, 0), ([1], False, 6)],
    ids=["single", "threes, empty first chunk", "uneven", "special tokens at the end"],
)
def test_ttft_and_tpot_are_those_of_the_script(
    bundles: list[int], empty_first: bool, textless: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SharedClock()
    monkeypatch.setattr("objectives.latency.stream.time.perf_counter", clock.looked_at)
    script = Script(FIRST, EACH, bundles, tokens=11, empty_first=empty_first, textless=textless)
    answers = []
    with serving(script, clock) as server:
        for _ in range(10):
            clock.begin()
            answers.append(Endpoint(server.url).complete({"model": "m", "prompt": "a", "max_tokens": 11}))
        expected = truth(server, 11)
    found = percentiles(answer.timing for answer in answers)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert [answer.timing.ttft for answer in answers] == pytest.approx(FIRST * 2)
    assert [answer.timing.tpot for answer in answers] == pytest.approx(EACH * 2)
    assert all((a.timing.output_tokens, a.prompt_tokens, a.counted) == (11, 5, True) for a in answers)


def test_a_server_that_does_not_count_is_counted_by_chunks() -> None:
    with serving(Script(usage=False, tokens=6)) as server:
        answer = Endpoint(server.url + "/v1/").complete({"model": "m", "prompt": "a"})
    assert (answer.timing.output_tokens, answer.counted, answer.prompt_tokens) == (6, False, None)


@pytest.mark.parametrize(("script", "gaps"), [(Script(bundles=[4], tokens=11), 3), (Script(tokens=11, textless=6), 4)])
def test_a_gap_is_between_two_chunks_with_text(script: Script, gaps: int) -> None:
    """The chunk that says why the answer ends comes at once behind the last text, and was a gap of no time."""
    with serving(script) as server:
        answer = Endpoint(server.url).complete({"model": "m", "prompt": "a"})
    assert len(answer.timing.itl) == gaps


@pytest.mark.parametrize(
    ("texts", "tokens", "ttft", "gaps"),
    [
        ([1, 2, 3], 3, 1, (1, 1)),
        ([1, 2, 3], None, 1, (1, 1)),
        ([1, 2, 3], 5, 1, (1, 8)),
        ([1], 5, 1, ()),
    ],
    ids=["the end brings nothing", "nobody counts", "two tokens came without text", "all in one chunk"],
)
def test_the_end_has_time_only_for_tokens_without_text(
    texts: list[float], tokens: int | None, ttft: float, gaps: tuple[float, ...]
) -> None:
    """Its chunk may be held back by a proxy; the count may come with it, or before it."""
    usage = None if tokens is None else {"completion_tokens": tokens, "prompt_tokens": 7}
    events = [(10.0 + at, {"choices": [{"text": "a"}, {"text": "of another row"}], "usage": usage}) for at in texts]
    end = {"choices": [{"text": "", "finish_reason": "length"}], "usage": None}
    answer = answer_of([*events, (20.0, end)], 10.0, "url")
    assert answer.timing == Timing(ttft, gaps, tokens or len(texts))
    assert (answer.counted, answer.prompt_tokens) == (tokens is not None, 7 if tokens else None)


def test_a_count_ends_an_answer_as_a_reason_does() -> None:
    """Some servers send no finish_reason; what broke off has no count either."""
    events = [(11.0, {"choices": [{"text": "a"}]}), (12.0, {"choices": [{"text": "b"}]})]
    counted = (12.0, {"choices": [], "usage": {"completion_tokens": 2, "prompt_tokens": 7}})
    assert answer_of([*events, counted], 10.0, "url").timing == Timing(1.0, (1.0,), 2)
    with pytest.raises(RequestError, match=r"^--endpoint url broke off an answer \(after 2 chunks, without a finish"):
        answer_of(events, 10.0, "url")


def test_a_refusal_is_passed_on_in_one_line() -> None:
    with serving(Script(status=429)) as server, pytest.raises(RequestError) as caught:
        Endpoint(server.url).complete({"model": "m", "prompt": "a"})
    assert str(caught.value) == (
        f'--endpoint {server.url} refused /v1/completions (status 429: {{"error": "too many\\nrequests"}}): look into '
        "the server's log"
    )


def test_a_transformers_serve_that_serves_one_model_alone_is_told_of() -> None:
    """`transformers serve MODEL` refuses the folder of base model and adapter, and its log says no more."""
    said = {"detail": "Server is pinned to 'a'; requested 'b'."}
    refusal = Endpoint("http://127.0.0.1:1").refused("/v1/completions", 400, said)
    assert str(refusal) == (
        '--endpoint http://127.0.0.1:1 refused /v1/completions (status 400: {"detail": "Server is pinned to \'a\'; '
        "requested 'b'.\"}): start transformers serve without a model, since it serves no adapter beside one that "
        "it was given"
    )


def test_an_answer_without_text_is_no_measurement() -> None:
    with serving(Script(text="")) as server, pytest.raises(RequestError) as caught:
        Endpoint(server.url).complete({"model": "m", "prompt": "a"})
    assert str(caught.value) == (
        f"--endpoint {server.url} answered without any text: check that the server generates with /v1/completions"
    )


def test_a_stream_that_ends_inside_an_event() -> None:
    with serving(Script(cut=True)) as server, pytest.raises(RequestError) as caught:
        Endpoint(server.url).complete({"model": "m", "prompt": "a"})
    assert str(caught.value) == (
        f"--endpoint {server.url} sent an event that is no JSON, perhaps cut off "
        '({"choices": [{"text": "wo): look into the log of the server, and of proxies before it'
    )


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (Script(dropped=True), "after 1 chunk, without a finish_reason): look into the log of the server, and of"),
        (Script(error={"error": {"code": 500}}), "{'code': 500}): look into the server's log"),
        (Script(error={"object": "error", "message": "no memory"}), "no memory): look into the server's log"),
    ],
    ids=["connection", "error", "error of an older vLLM"],
)
def test_a_part_of_an_answer_is_none(script: Script, cause: str) -> None:
    """A connection that closes between two events looks like the end of a stream."""
    with serving(script) as server, pytest.raises(RequestError) as caught:
        Endpoint(server.url).complete({"model": "m", "prompt": "a"})
    assert str(caught.value).startswith(f"--endpoint {server.url} broke off an answer ({cause}")


def test_nobody_at_the_address() -> None:
    with serving(Script()) as server:
        url = server.url
    with pytest.raises(RequestError) as caught:
        Endpoint(url).call("GET", "/v1/models")
    assert str(caught.value) == (
        f"--endpoint {url} does not answer (Connection refused): check that the server runs there"
    )


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://host", "http://", "http://host:80a", "http://host:99999", "http://a..b", "http://a/\xe9"],
)
def test_no_address(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        Endpoint(url)
    assert str(caught.value) == (
        f"--endpoint {url} is no address of a server: give one like http://127.0.0.1:8000, without a path"
    )


@pytest.mark.parametrize(
    ("url", "told"),
    [("http://me:secret@host:1", "http://***@host:1"), ("http://host:1?token=secret", "http://host:1?token=***")],
)
def test_secrets_of_an_address_are_refused_since_every_profile_would_tell_them(url: str, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        Endpoint(url)
    assert str(caught.value) == (
        f"--endpoint {told} has a user, a password or a query, and none of these is ever sent: leave them out"
    )
