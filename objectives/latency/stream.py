"""One streamed completion of an OpenAI-compatible server, timed chunk by chunk.

Over the standard library: a chunk is read as soon as it arrives, and nothing else runs between socket and clock.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from objectives.errors import RequestError, counted
from objectives.latency.timing import Timing, timing
from objectives.secrets import redacted

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    timing: Timing
    prompt_tokens: int | None  # as the server counts them
    counted: bool  # whether the server said how many tokens it gave; otherwise each chunk counts as one


class Endpoint:
    """A server's address, such as ``http://127.0.0.1:8000`` or ``http://127.0.0.1:8000/v1``.

    Raises RequestError for what is no such address. May be shared by threads: each call opens a connection of its own.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            (parts.hostname or "").encode("idna")  # as connecting does: a label may be empty, or too long
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and parts.path.isascii()
        except ValueError:  # also of a port that is no number, or too large
            known = False
        if not known:
            raise RequestError(
                f"--endpoint {redacted(url)} is no address of a server: give one like http://127.0.0.1:8000, without a "
                "path"
            )
        if "@" in parts.netloc or parts.query:  # every profile would tell them
            raise RequestError(
                f"--endpoint {redacted(url)} has a user, a password or a query, and none of these is ever sent: leave "
                "them out"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self._parts = urlsplit(self.url)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status, and the JSON or text of the answer. Raises RequestError if nobody answers."""
        try:
            with self._connection() as connection:
                response = self._send(connection, method, path, body)
                text = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from error
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def complete(self, body: dict[str, Any]) -> Answer:
        """POST /v1/completions with ``stream`` on. Raises RequestError for a refusal, a broken stream or no text."""
        try:
            with self._connection() as connection:
                # Connected first: that is not the server's time to the first token.
                connection.connect()
                sent = time.perf_counter()
                response = self._send(connection, "POST", "/v1/completions", {**body, "stream": True})
                if response.status != 200:
                    raise self.refused("/v1/completions", response.status, response.read().decode("utf-8", "replace"))
                answer = answer_of(_events(response, self.url), sent, self.url)
                response.read()  # the end of the stream, so that the server sees no broken connection
                return answer
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, RequestError):
                raise
            raise self._silent(error) from error

    def refused(self, path: str, status: int, answer: Any) -> RequestError:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        remedy = "look into the server's log"
        if "Server is pinned to" in text:
            remedy = "start transformers serve without a model, since it serves no adapter beside one that it was given"
        return RequestError(
            f"--endpoint {self.url} refused {path} (status {status}: {' '.join(text.split())[:200]}): {remedy}"
        )

    def _silent(self, error: Exception) -> RequestError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return RequestError(f"--endpoint {self.url} does not answer ({reason}): check that the server runs there")

    def _connection(self) -> _Closing:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            secure = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=ssl.create_default_context())
            return _Closing(secure)
        return _Closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_S))

    def _send(self, connection: Any, method: str, path: str, body: Any) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        text = None if body is None else json.dumps(body).encode()
        connection.request(method, self._parts.path + path, body=text, headers=headers)
        response: http.client.HTTPResponse = connection.getresponse()
        return response


class _Closing:
    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def __enter__(self) -> http.client.HTTPConnection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _events(response: http.client.HTTPResponse, url: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """Server-sent events with the time at which each was complete. Raises RequestError for one that is no JSON."""
    while line := response.readline():
        arrived = time.perf_counter()
        data = line.decode("utf-8", "replace").strip().removeprefix("data:").strip()
        if data == "[DONE]":
            return
        if data.startswith("{"):
            try:
                event = json.loads(data)
            except ValueError as error:
                raise RequestError(
                    f"--endpoint {url} sent an event that is no JSON, perhaps cut off ({data[:80]}): look into the "
                    "log of the server, and of proxies before it"
                ) from error
            yield arrived, event


def answer_of(events: Iterable[tuple[float, dict[str, Any]]], sent: float, url: str) -> Answer:
    """Of events with the times at which they were complete, in seconds on the clock of ``sent``.

    Raises RequestError for an error among them, a broken stream or no text.
    """
    chunks: list[float] = []
    ended, finished = sent, False
    usage: dict[str, Any] = {}
    for arrived, event in events:
        if said := event.get("error") or (event.get("object") == "error" and event.get("message")):
            raise RequestError(f"--endpoint {url} broke off an answer ({said}): look into the server's log")
        usage = event.get("usage") or usage
        for choice in (event.get("choices") or [])[:1]:
            ended, finished = arrived, finished or choice.get("finish_reason") is not None
            if choice.get("text"):
                chunks.append(arrived)
    if not finished and not usage:
        raise RequestError(
            f"--endpoint {url} broke off an answer (after {counted(len(chunks), 'chunk')}, without a finish_reason): "
            "look into the log of the server, and of proxies before it"
        )
    if not chunks:
        raise RequestError(
            f"--endpoint {url} answered without any text: check that the server generates with /v1/completions"
        )
    tokens = usage.get("completion_tokens")
    # Text may come late: a character of several tokens is sent with the last of them, and counts in the tokens. Or not
    # at all: an end of sequence has none, and half a character has none. Such last tokens took their time as well,
    # which is no gap of its own, since the last chunk may bring nothing but the reason of the end.
    if len(chunks) > 1 and tokens and tokens > len(chunks):
        chunks[-1] = ended
    return Answer(timing(sent, chunks, int(tokens or len(chunks))), usage.get("prompt_tokens"), tokens is not None)
