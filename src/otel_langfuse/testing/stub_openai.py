"""A stub of the OpenAI API on a local port: for tests and for the demo, with no key and no cost.

    with StubOpenAI() as stub, openai.OpenAI(base_url=stub.url, api_key="stub") as client:
        client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "Hello"}])

It answers ``POST /v1/chat/completions``, ``/v1/responses`` (both plain and streamed), ``/v1/embeddings``,
``GET /v1/models`` and ``GET /ping/<anything>``. What it says is fixed by the request: see ``_stub_model``. Ids differ
from call to call, as real ones do, and are the same in each run.

Words in the prompt make it fail or count differently:

=====================  ================================================================================
``TRIGGER_401``        answers 401, as for a wrong key
``TRIGGER_429``        answers 429, with a hint to retry after 10 ms
``TRIGGER_500``        answers 500, likewise
``TRIGGER_CUT``        sends half of the answer, then closes the socket
``TRIGGER_CACHED``     1024 more input tokens, all of them cached
``TRIGGER_REASONING``  64 more output tokens, spent on reasoning
=====================  ================================================================================

A model whose name starts with ``no-such-`` does not exist: 404.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import TracebackType
from typing import Any, ClassVar, cast

from otel_langfuse.testing._stub_chat import answer_chat, answer_embeddings, stream_chat, token
from otel_langfuse.testing._stub_model import CACHED_TOKENS, REASONING_TOKENS, count_tokens
from otel_langfuse.testing._stub_responses import answer_responses, stream_responses

__all__ = ["CACHED_TOKENS", "REASONING_TOKENS", "RecordedRequest", "StubOpenAI", "count_tokens"]

MODELS = ("gpt-5", "gpt-5-mini", "gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "text-embedding-3-large")

_Events = Callable[[Mapping[str, Any], int, int], Iterator[dict[str, Any]]]
_STREAMS: dict[str, _Events] = {"/v1/chat/completions": stream_chat, "/v1/responses": stream_responses}
_CREATED = 1_754_568_000
_RECORDED = 1000


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request that the stub got; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error answer; ``hint`` says when to come back, in OpenAI's own header."""

    status: int
    message: str
    kind: str
    code: str | None = None
    hint: str = ""

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}}


_TRIGGERS = {
    "TRIGGER_401": _Failure(401, "Incorrect API key provided: stub.", "invalid_request_error", code="invalid_api_key"),
    "TRIGGER_429": _Failure(
        429, "Rate limit reached for requests per minute.", "requests", code="rate_limit_exceeded", hint="10"
    ),
    "TRIGGER_500": _Failure(500, "The server had an error while processing your request.", "server_error", hint="10"),
}


class StubOpenAI:
    """The stub server; a context manager that serves from ``__enter__`` to ``__exit__``.

    Each connection has a thread. ``close`` cuts open connections, wakes a stream that waits for its first token, and
    returns when every thread has ended.

    Attributes:
        requests: The last 1000 requests, oldest first.
        tokens: What a bill would say: the tokens of all whole answers so far, input and output.
    """

    def __init__(self, first_token_delay: float = 0.02) -> None:
        """Binds a free port on the loopback interface.

        Args:
            first_token_delay: Seconds that a streamed answer waits before its first token.
        """
        self.requests: deque[RecordedRequest] = deque(maxlen=_RECORDED)
        self.tokens = 0
        self._server = _Server(self, first_token_delay)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="stub-openai")

    @property
    def root(self) -> str:
        """The server's address, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """What belongs into ``OPENAI_BASE_URL``."""
        return f"{self.root}/v1"

    def close(self) -> None:
        """Stops serving; idempotent."""
        self._server.closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> StubOpenAI:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    """Keeps the open connections, so that closing it needs no client's help."""

    daemon_threads = False

    def __init__(self, stub: StubOpenAI, first_token_delay: float) -> None:
        self.stub = stub
        self.first_token_delay = first_token_delay
        self.closing = threading.Event()
        self.numbers = count(1)
        self.answers = count(1)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def bill(self, tokens: int) -> None:
        """Adds to the tokens of whole answers."""
        with self._lock:
            self.stub.tokens += tokens

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the client was faster
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is its own business; anything else is a bug of the stub and is shown."""
        if not self.closing.is_set():
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads one request after the other from a connection, and answers."""

    protocol_version = "HTTP/1.1"
    server_version = "stub-openai"
    disable_nagle_algorithm = True
    _routes: ClassVar[Mapping[str, Callable[[Mapping[str, Any], int, int], dict[str, Any]]]] = {
        "/v1/chat/completions": answer_chat,
        "/v1/responses": answer_responses,
        "/v1/embeddings": lambda body, number, created: answer_embeddings(body),
    }

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def do_GET(self) -> None:
        self._record({})
        if self.path == "/v1/models":
            models = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "stub"} for name in MODELS]
            self._send(200, {"object": "list", "data": models})
        elif self.path.startswith("/ping/"):
            self._send(200, {"pong": self.path.removeprefix("/ping/")})
        else:
            self._fail(_not_found(self.command, self.path))

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        failure, body = _parse(self.path, raw)
        self._record(body)
        failure = failure or next((fail for word, fail in _TRIGGERS.items() if word.encode() in raw), None)
        number = next(self._stub_server.numbers)
        cut = b"TRIGGER_CUT" in raw
        if failure is not None:
            self._fail(failure)
        elif body.get("stream") and self.path in _STREAMS:
            self._stream(_STREAMS[self.path], body, number, cut=cut)
        else:
            answer = self._routes[self.path](body, number, _CREATED + number)
            self._bill(answer, cut=cut)
            self._send(200, answer, cut=cut)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: the stub has ``requests`` instead of a log."""

    @property
    def _stub_server(self) -> _Server:
        return cast("_Server", self.server)

    def _record(self, body: Mapping[str, Any]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._stub_server.stub.requests.append(RecordedRequest(self.command, self.path, headers, body))

    def _bill(self, answer: Mapping[str, Any], *, cut: bool) -> None:
        if not cut:
            self._stub_server.bill(answer["usage"]["total_tokens"])

    def _fail(self, failure: _Failure) -> None:
        self._send(failure.status, failure.body, {"retry-after-ms": failure.hint} if failure.hint else {})

    def _send(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None, *, cut: bool = False
    ) -> None:
        encoded = json.dumps(body).encode()
        self._head(status, {"content-type": "application/json", "content-length": str(len(encoded)), **(headers or {})})
        self.wfile.write(encoded[: len(encoded) // 2] if cut else encoded)
        self.close_connection = self.close_connection or cut

    def _stream(self, make: _Events, body: Mapping[str, Any], number: int, *, cut: bool) -> None:
        """Sends server-sent events after the delay of the first token."""
        events = list(make(body, number, _CREATED + number))
        # A stream is billed in full whether or not the client asked to see the usage.
        self._bill(self._routes[self.path](body, number, _CREATED + number), cut=cut)
        self._head(200, {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"})
        self._stub_server.closing.wait(self._stub_server.first_token_delay)
        for lines in _sse(events[: len(events) // 2] if cut else events):
            self._chunk(lines)
        if cut:
            self.close_connection = True
            return
        if self.path == "/v1/chat/completions":
            self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        fixed = {"openai-version": "2020-10-01", "openai-processing-ms": "20"}
        request_id = "req_" + token("request", next(self._stub_server.answers), length=32)
        for name, value in {**fixed, "x-request-id": request_id, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


def _sse(events: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Server-sent events; those of the Responses API are named by their type."""
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        yield f"{name}data: {json.dumps(event)}\n\n".encode()


def _not_found(method: str, path: str) -> _Failure:
    return _Failure(404, f"Invalid URL ({method} {path})", "invalid_request_error")


_REQUIRED = {
    "/v1/chat/completions": ("model", "messages"),
    "/v1/responses": ("model",),
    "/v1/embeddings": ("model", "input"),
}


def _parse(path: str, raw: bytes) -> tuple[_Failure | None, Mapping[str, Any]]:
    """The request's JSON object, and what is wrong with it."""
    if path not in _REQUIRED:
        return _not_found("POST", path), {}
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return _Failure(400, "We could not parse the JSON body of your request.", "invalid_request_error"), {}
    for name in _REQUIRED[path]:
        if not body.get(name):
            text = f"Missing required parameter: '{name}'."
            return _Failure(400, text, "invalid_request_error", code="missing_required_parameter"), body
    if str(body["model"]).startswith("no-such-"):
        text = f"The model `{body['model']}` does not exist or you do not have access to it."
        return _Failure(404, text, "invalid_request_error", code="model_not_found"), body
    return None, body
