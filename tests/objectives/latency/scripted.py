"""A real HTTP server on 127.0.0.1 that streams completions by a script and notes when it sent what."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from objectives.latency.server import ServerEngine
from objectives.latency.settings import LatencySettings
from tests.objectives.tiny import Zoo

#: Of measurements that are to be short.
SETTINGS = LatencySettings(prompt_tokens=8, output_tokens=8, warmup=1, max_seconds=0.1)
#: Of a script: what vLLM calls itself.
VLLM = {"owner": "vllm", "tokens": 8}


@dataclass
class Script:
    """``first`` and ``each`` are delays in seconds, taken in turn by the requests; ``bundles`` are tokens a chunk."""

    first: list[float] = field(default_factory=lambda: [0.002])
    each: list[float] = field(default_factory=lambda: [0.001])
    bundles: list[int] = field(default_factory=lambda: [1])
    tokens: int = 8
    answers: list[int] = field(default_factory=list)  # tokens of each answer in turn, instead of ``tokens``
    empty_first: bool = False  # a chunk without text before the first token
    whole: bool = False  # the whole answer in one chunk
    gathered: list[bool] = field(
        default_factory=lambda: [False]
    )  # whether a proxy sends all chunks at once, by request
    cut: bool = False  # the stream ends inside an event
    dropped: bool = False  # the stream ends behind an event, before the answer does
    error: dict[str, Any] = field(default_factory=dict)  # in place of the answer's end
    textless: int = 0  # the last tokens of an answer, which have no text
    wants_key: bool = False
    away: int = 0  # the status of all that is asked of it but a completion, as of a proxy without a server
    usage: bool = True
    owner: str = "somebody"
    model: dict[str, Any] = field(default_factory=dict)  # what /v1/models says beside id and owner
    info: dict[str, Any] = field(default_factory=dict)  # of SGLang's /get_server_info
    models: bool = True  # whether /v1/models exists
    loads: bool = True  # whether /v1/load_lora_adapter exists
    sees: bool = True  # whether an adapter's folder is there
    slower: float = 1.0  # how many times longer a request to an adapter takes
    paths: list[str] = field(default_factory=list)  # of /openapi.json
    status: int = 200
    text: str = "word "


@dataclass
class Sent:
    """One request as the server knows it: when it arrived, and when each chunk with text left."""

    body: dict[str, Any]
    arrived: float
    chunks: list[float] = field(default_factory=list)


class Clock:
    """The machine's."""

    def now(self) -> float:
        return time.perf_counter()

    def reach(self, due: float) -> None:
        time.sleep(max(0.0, due - self.now()))

    def seen(self, events: int) -> None:
        """Wait until the client has read so many more; by the machine's clock nobody waits for it."""


class SharedClock(Clock):
    """One that server and client go by, which stands still until the client has read what was sent: so no load on the
    machine makes anything late, and a client that looks at the clock at another time reads another time."""

    def __init__(self) -> None:
        self._time, self._looks, self._due = 100.0, 0, 1  # the first look is when the request is sent
        self._keeps_up = True
        self._changed = threading.Condition()

    def now(self) -> float:
        return self._time

    def reach(self, due: float) -> None:
        self._time = max(self._time, due)

    def looked_at(self) -> float:
        """The client's ``time.perf_counter``."""
        with self._changed:
            self._looks += 1
            self._changed.notify_all()
            return self._time

    def seen(self, events: int) -> None:
        # Each event is two lines, at each of which the client looks. One that reads late is waited for but once.
        self._due += 2 * events
        with self._changed:
            if self._keeps_up:
                self._keeps_up = self._changed.wait_for(lambda: self._looks >= self._due, timeout=10.0)

    def begin(self) -> None:
        """Another request."""
        with self._changed:
            self._looks, self._due = 0, 1


class ScriptedServer:
    def __init__(self, script: Script, clock: Clock | None = None) -> None:
        self.script = script
        self.clock = clock or Clock()
        self.sent: list[Sent] = []
        self.loaded: dict[str, str] = {}
        self.calls: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def begin(self, body: dict[str, Any]) -> tuple[Sent, int]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.sent.append(Sent(body, self.clock.now()))
            return self.sent[-1], len(self.sent) - 1

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    owner: ScriptedServer
    protocol_version = "HTTP/1.1"
    gathers = False
    waiting = b""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        script = self.owner.script
        self.owner.calls.append(self.path)
        answers = {
            "/v1/models": {"data": [{"id": "served-name", "owned_by": script.owner, **script.model}]},
            "/version": {"version": "0.9"},
            **({"/get_server_info": script.info} if script.info else {}),
            "/openapi.json": {"paths": {path: {} for path in script.paths}},
        }
        if not script.models:
            answers.pop("/v1/models")
        if script.wants_key:
            self._json(401, {"error": "Unauthorized"})
        elif script.away:
            self._json(script.away, {"error": "starting"})
        else:
            self._json(200 if self.path in answers else 404, answers.get(self.path, {"detail": "Not Found"}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        self.owner.calls.append(self.path)
        if self.path == "/reset":
            self._json(200 if self.path in self.owner.script.paths else 404, {})
        elif self.path.endswith("load_lora_adapter"):
            if not self.owner.script.loads:
                self._json(404, {"detail": "Not Found"})
            elif "unload" in self.path:
                self._json(200, self.owner.loaded.pop(body["lora_name"]))
            elif not self.owner.script.sees:
                said = f"Loading lora {body['lora_name']} failed: No adapter found for {body['lora_path']}"
                self._json(404, {"error": {"message": said, "type": "NotFoundError", "code": 404}})
            elif body["lora_name"] in self.owner.loaded:
                self._json(400, {"error": {"message": f"{body['lora_name']!r} has already been loaded."}})
            else:
                self.owner.loaded[body["lora_name"]] = body["lora_path"]
                self._json(200, "Success")
        elif self.owner.script.status != 200:
            self._json(self.owner.script.status, {"error": "too many\nrequests"})
        else:
            sent, number = self.owner.begin(body)
            try:
                self._stream(sent, number)
            finally:
                self.owner.end()  # before the client can know that it has all, and ask anew
            if not (self.owner.script.cut or self.owner.script.dropped):
                self._chunk(b"data: [DONE]\n\n")
            self.gathers = False
            self._chunk(b"")

    def _stream(self, sent: Sent, number: int) -> None:
        script = self.owner.script
        first = script.first[number % len(script.first)]
        # Later than the request, so that what is timed from the answer's head is told from what is timed from sending.
        self.owner.clock.reach(sent.arrived + first / 2)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.gathers = script.gathered[number % len(script.gathered)]
        adapted = sent.body["model"] in self.owner.loaded or sent.body.get("lora_path")
        times = script.slower if adapted else 1.0
        if script.empty_first:
            self._event({"choices": [{"text": "", "finish_reason": None}]})
        due = sent.arrived + first
        asked = script.answers[number % len(script.answers)] if script.answers else script.tokens
        tokens, bundle = 0, 0
        while tokens < asked:
            # The first token leaves alone, later ones when the last of their bundle is made.
            size = 1 if tokens == 0 else min(script.bundles[bundle % len(script.bundles)], asked - tokens)
            if script.whole:
                size = asked
            if tokens:
                due += size * script.each[number % len(script.each)] * times
                bundle += 1
            self.owner.clock.reach(due)
            sent.chunks.append(self.owner.clock.now())
            text = script.text * size if tokens < asked - script.textless else ""
            self._event({"choices": [{"text": text, "finish_reason": None}]})
            tokens += size
            if script.dropped:
                return
            if script.error:
                self._event(script.error)
                return
            if script.cut:
                self._chunk(b'data: {"choices": [{"text": "wo')
                return
        usage = {"prompt_tokens": 5, "completion_tokens": tokens}
        self._event({"choices": [{"text": "", "finish_reason": "length"}]})
        if script.usage:
            self._event({"choices": [], "usage": usage})

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(event)}\n\n".encode())
        self.owner.clock.seen(1)

    def _chunk(self, data: bytes) -> None:
        self.waiting += f"{len(data):x}\r\n".encode() + data + b"\r\n"
        if not self.gathers:
            self.wfile.write(self.waiting)
            self.waiting = b""

    def _json(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(script: Script, clock: Clock | None = None) -> Iterator[ScriptedServer]:
    server = ScriptedServer(script, clock)
    try:
        yield server
    finally:
        server.close()


def engine(zoo: Zoo, server: ScriptedServer, **changes: Any) -> ServerEngine:
    """On the small Llama of the zoo; ``changes`` are those of the settings."""
    return ServerEngine(server.url, zoo.folder("llama"), zoo.space("llama"), replace(SETTINGS, **changes))


def truth(server: ScriptedServer, tokens: int) -> dict[str, float]:
    """Percentiles in milliseconds of what the server itself saw itself send."""
    ttft = [(sent.chunks[0] - sent.arrived) * 1e3 for sent in server.sent]
    tpot = [(sent.chunks[-1] - sent.chunks[0]) / (tokens - 1) * 1e3 for sent in server.sent]
    return {
        f"{name}_p{percent}_ms": float(np.percentile(values, percent))
        for name, values in (("ttft", ttft), ("tpot", tpot))
        for percent in (50, 95, 99)
    }
