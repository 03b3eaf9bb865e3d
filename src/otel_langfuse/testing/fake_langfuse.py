"""A Langfuse that lives in the test's process: it checks what it gets as the server does, keeps it, and fails on order.

It knows the ingestion endpoint of Langfuse 4.16: method, path, Basic auth, content type, gzip, the ingestion version,
and that one span without ids costs its whole batch. And it knows the media API (``fake_media.py``), storage included.
"""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_langfuse.testing.fake_media import MEDIA_PATH, STORAGE_PATH, MediaLink, MediaShelf
from otel_langfuse.testing.http_server import Handler, HttpEndpoint, Received
from otel_langfuse.testing.otlp_sink import spans_of

__all__ = [
    "FakeLangfuse",
    "Reply",
    "SpanNode",
    "accept_then_reset",
    "hang",
    "reset",
    "slow_body",
    "slow_headers",
]

_PATH = "/api/public/otel/v1/traces"
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Spans are stored if its status is 2xx.

    Attributes:
        status: The HTTP status.
        headers: Headers; the content type is JSON if none is given.
        body: The body.
        after: Answered only when this is set, or when the server stops.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    after: threading.Event | None = None


@dataclass(frozen=True, slots=True)
class _Misbehave:
    """Does not answer properly; ``store`` says whether the spans are kept all the same."""

    act: Callable[[Handler], None] = field(repr=False)
    store: bool = False


Behaviour = Reply | _Misbehave


def hang() -> Behaviour:
    """Takes the request and never answers."""

    def act(handler: Handler) -> None:
        handler.close_connection = True
        handler.server.stopping.wait()

    return _Misbehave(act)


def reset() -> Behaviour:
    """Takes the request and resets the connection; nothing is stored."""
    return _Misbehave(Handler.reset)


def accept_then_reset() -> Behaviour:
    """Stores the spans and resets the connection: the client cannot know."""
    return _Misbehave(Handler.reset, store=True)


def slow_headers(interval: float = 0.02) -> Behaviour:
    """Sends the answer's head byte by byte, without end; nothing is stored."""
    return _Misbehave(lambda handler: handler.trickle(b"HTTP/1.1 200 OK\r\nx-slow: " + b"a" * 10_000, interval))


def slow_body(interval: float = 0.02) -> Behaviour:
    """Answers 200 at once, stores the spans, and sends the body byte by byte, without end."""

    def act(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10000\r\n\r\n")
        handler.trickle(b" " * 10_000, interval)

    return _Misbehave(act, store=True)


@dataclass(frozen=True, slots=True)
class SpanNode:
    """A stored span and the spans below it, in order of start."""

    name: str
    span: Span = field(repr=False)
    children: tuple[SpanNode, ...] = ()


class FakeLangfuse(HttpEndpoint):
    """A scripted Langfuse on a free port of 127.0.0.1; a context manager.

    Checks come first (401, 404, 405, 400 as the server answers them), then the script, then the standing rules
    (``fail_until``, ``limit_bytes``, ``reject_if``), then 200. Requests about media have a script of their own
    (``script_media``) and are touched by nothing of that.

    Args:
        public_key: Key to ask for; without keys, any are taken.
        secret_key: Likewise.
        path: Where spans are taken.
        tls: Serves HTTPS with this context.
    """

    methods = frozenset({"POST", "PUT", "PATCH"})

    def __init__(
        self,
        *,
        public_key: str = "",
        secret_key: str = "",
        path: str = _PATH,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls=tls)
        token = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode("ascii")
        self._authorization = f"Basic {token}" if public_key or secret_key else ""
        self._path = path
        self._script: list[Behaviour] = []
        self._exports: list[ExportTraceServiceRequest] = []
        self._bad: Callable[[Span], bool] = lambda _: False
        self._limit: int | None = None
        self._failing: tuple[threading.Event, int] | None = None
        self._shelf = MediaShelf()
        self._media_script: list[Behaviour | None] = []
        self._media_requests: list[Received] = []

    @property
    def traces_url(self) -> str:
        """The full URL that takes spans."""
        return self.url + self._path

    def script(self, behaviours: Iterable[Behaviour]) -> None:
        """Adds behaviours, one for each of the next requests that pass the checks."""
        with self._changed:
            self._script.extend(behaviours)

    def reject_if(self, bad: Callable[[Span], bool]) -> None:
        """Answers 400 and stores nothing while a request holds a span for which ``bad`` is true."""
        self._bad = bad

    def limit_bytes(self, limit: int | None) -> None:
        """Answers 413 to bodies, as sent, of more bytes; ``None`` lifts the limit."""
        self._limit = limit

    def fail_until(self, event: threading.Event, status: int = 503) -> None:
        """Answers ``status`` until ``event`` is set."""
        self._failing = (event, status)

    def script_media(self, behaviours: Iterable[Behaviour | None]) -> None:
        """Adds behaviours, one for each of the next requests about media; ``None``: as Langfuse does."""
        with self._changed:
            self._media_script.extend(behaviours)

    @property
    def media(self) -> dict[str, bytes]:
        """The media that have been uploaded, and reported so, by id."""
        with self._changed:
            return self._shelf.kept

    @property
    def media_links(self) -> list[MediaLink]:
        """Which media belong to which field of which observation, in order of arrival."""
        with self._changed:
            return list(self._shelf.links)

    @property
    def media_requests(self) -> list[Received]:
        """Every request about media, in order of arrival; they are not among ``requests``."""
        with self._changed:
            return list(self._media_requests)

    def wait_for_media_requests(self, n: int, timeout: float = 10.0) -> bool:
        """Whether ``n`` requests about media have come within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._media_requests) >= n, timeout)

    @property
    def exports(self) -> list[ExportTraceServiceRequest]:
        """The requests that were stored."""
        with self._changed:
            return list(self._exports)

    @property
    def spans(self) -> list[Span]:
        """Every span that was stored, as often as it was, in order of arrival."""
        return spans_of(self.exports)

    def wait_for(self, n_spans: int, timeout: float = 10.0) -> bool:
        """Whether ``n_spans`` spans have been stored within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.spans) >= n_spans, timeout)

    def trees(self) -> dict[str, tuple[SpanNode, ...]]:
        """The roots by trace id in hex. Of rows with equal trace, span and start time the last one counts."""
        rows = {(span.trace_id, span.span_id, span.start_time_unix_nano): span for span in self.spans}
        ordered = sorted(rows.values(), key=lambda span: span.start_time_unix_nano)
        known = {(span.trace_id, span.span_id) for span in ordered}
        below: dict[tuple[bytes, bytes], list[Span]] = {}
        roots: dict[str, list[Span]] = {}
        for span in ordered:
            parent = (span.trace_id, span.parent_span_id)
            if parent in known and span.parent_span_id != span.span_id:
                below.setdefault(parent, []).append(span)
            else:
                roots.setdefault(span.trace_id.hex(), []).append(span)

        def node(span: Span) -> SpanNode:
            children = below.get((span.trace_id, span.span_id), [])
            return SpanNode(span.name, span, tuple(node(child) for child in children))

        return {trace: tuple(node(span) for span in spans) for trace, spans in roots.items()}

    def handle(self, handler: Handler, request: Received) -> None:
        """Checks, then does what the script or the rules say."""
        if request.path.startswith((MEDIA_PATH, STORAGE_PATH)):
            self._handle_media(handler, request)
            return
        refusal, export = self._check(request)
        with self._changed:
            behaviour = refusal or (self._script.pop(0) if self._script else self._rules(request, export))
        self._note(request)
        self._hold(behaviour)
        if behaviour.store if isinstance(behaviour, _Misbehave) else 200 <= behaviour.status < 300:
            with self._changed:
                self._exports.append(export)
                self._changed.notify_all()
        self._act(handler, behaviour)

    def _handle_media(self, handler: Handler, request: Received) -> None:
        with self._changed:
            behaviour = self._media_script.pop(0) if self._media_script else None
            self._media_requests.append(request)
            self._changed.notify_all()
        if behaviour is None:
            open_to_all = not self._authorization or request.path.startswith(STORAGE_PATH)
            if open_to_all or request.headers.get("authorization") == self._authorization:
                with self._changed:
                    status, body = self._shelf.answer(request, self.url)
                behaviour = Reply(status, body=body)
            else:
                behaviour = Reply(401, body=b'{"message":"Invalid credentials"}')
        self._hold(behaviour)
        self._act(handler, behaviour)

    def _hold(self, behaviour: Behaviour) -> None:
        if isinstance(behaviour, Reply) and behaviour.after is not None:
            while not behaviour.after.wait(0.01) and not self.stopping.is_set():
                pass

    def _act(self, handler: Handler, behaviour: Behaviour) -> None:
        if isinstance(behaviour, Reply):
            handler.reply(behaviour.status, _JSON | behaviour.headers, behaviour.body)
        else:
            behaviour.act(handler)

    def _check(self, request: Received) -> tuple[Reply | None, ExportTraceServiceRequest]:
        """What Langfuse itself refuses, in its order, and the decoded payload."""
        export = ExportTraceServiceRequest()
        if request.method != "POST":
            return Reply(405, body=b'{"message":"Method not allowed"}'), export
        if request.path != self._path:
            return Reply(404, {"content-type": "text/html"}, b"<!DOCTYPE html><html></html>"), export
        if self._authorization and request.headers.get("authorization") != self._authorization:
            return Reply(401, body=b'{"message":"Invalid credentials"}'), export
        version = request.headers.get("x-langfuse-ingestion-version", "")
        if version and not (version.lstrip("-").isdigit() and int(version) <= 4):
            return Reply(400, body=b'{"error":"Unsupported ingestion version"}'), export
        if "application/x-protobuf" not in request.headers.get("content-type", "").lower():
            return Reply(400, body=b'{"error":"Invalid content type"}'), export
        try:
            export.ParseFromString(request.payload)
        except (DecodeError, ValueError):
            return Reply(400, body=b'{"error":"Failed to parse OTel Protobuf Trace"}'), ExportTraceServiceRequest()
        return None, export

    def _rules(self, request: Received, export: ExportTraceServiceRequest) -> Reply:
        if self._failing is not None and not self._failing[0].is_set():
            return Reply(self._failing[1])
        if self._limit is not None and len(request.body) > self._limit:
            return Reply(413, {"content-type": "text/html"}, b"<html>413 Request Entity Too Large</html>")
        for group in export.resource_spans:
            for scoped in group.scope_spans:
                for span in scoped.spans:
                    if not span.trace_id or not span.span_id or self._bad(span):
                        return Reply(400, body=b'{"error":"Invalid spans"}')
        return Reply(200, body=b'{"name":"otel-ingestion-job","data":{},"opts":{},"id":"1"}')
