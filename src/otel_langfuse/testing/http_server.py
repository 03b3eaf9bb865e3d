"""The HTTP part that the stand-ins share: a server on a free port of 127.0.0.1 that leaves nothing open behind it."""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Any, Self

__all__ = ["Handler", "HttpEndpoint", "Received"]

_BODY_LIMIT = 64 * 1024 * 1024
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came.

    Attributes:
        path: The path, with its query.
        headers: Names in lower case.
        body: The bytes, compressed if they came so.
        client: Address and port of the connection that it came over.
        method: The HTTP method.
    """

    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    client: tuple[str, int] = ("", 0)
    method: str = "POST"

    @property
    def payload(self) -> bytes:
        """The body, decompressed.

        Raises:
            ValueError: It is no gzip although a header says so.
        """
        if "gzip" not in self.headers.get("content-encoding", ""):
            return self.body
        try:
            return gzip.decompress(self.body)
        except (OSError, EOFError) as error:
            message = "the body is no gzip"
            raise ValueError(message) from error


class Handler(BaseHTTPRequestHandler):
    """One connection; hands requests to its endpoint and offers the ways to answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        """Lets the endpoint answer."""
        self._hand_on("POST")

    def do_PUT(self) -> None:
        """Lets the endpoint answer if it takes PUT."""
        self._hand_on("PUT")

    def do_PATCH(self) -> None:
        """Lets the endpoint answer if it takes PATCH."""
        self._hand_on("PATCH")

    def _hand_on(self, method: str) -> None:
        length = min(int(self.headers.get("content-length") or 0), _BODY_LIMIT)
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if method in self.server.methods:
            self.server.on_request(self, Received(self.path, headers, body, self.client_address, method))
        else:
            self.do_GET()

    def do_GET(self) -> None:
        """Answers that this method is not taken."""
        self.reply(405, {"content-type": "application/json"}, b'{"message":"Method not allowed"}')

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Answers at once and as a whole."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def trickle(self, data: bytes, interval: float) -> None:
        """Writes ``data`` byte by byte until it is through, the client leaves or the server stops."""
        self.close_connection = True
        for position in range(len(data)):
            if self.server.stopping.wait(interval):
                return
            self.wfile.write(data[position : position + 1])

    def reset(self) -> None:
        """Ends the connection by RST instead of an answer."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.server.unanswered.add(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Writes nothing."""


class _Server(HTTPServer):
    """A thread per connection; ``stop`` ends them all."""

    request_queue_size = 64

    def __init__(
        self, on_request: Callable[[Handler, Received], None], methods: frozenset[str], tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.on_request = on_request
        self.methods = methods
        self.stopping = threading.Event()
        self.unanswered: set[socket.socket] = set()
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handles a connection in a thread of its own."""
        if self._tls is not None:
            # The handshake happens at the first read, in the connection's thread.
            request = self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        with self._lock:
            self._open[request] = thread
        thread.start()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # The client left, as it may.
        finally:
            self.shutdown_request(request)
            with self._lock:
                self._open.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection, without a FIN if it is to be reset."""
        if request in self.unanswered:
            self.unanswered.discard(request)
            request.close()
        else:
            super().shutdown_request(request)

    def stop(self) -> None:
        """Ends the server and every connection."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            connections = dict(self._open)
        for connection, thread in connections.items():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It is closed already.
            thread.join(5)


class HttpEndpoint:
    """A server as a context manager; subclasses say what happens to a request.

    Args:
        tls: Serves HTTPS with this context.
    """

    methods = frozenset({"POST"})
    """The methods that are taken; others are answered with 405."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._scheme = "https" if tls else "http"
        self._server = _Server(self.handle, self.methods, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._changed = threading.Condition()
        self._requests: list[Received] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stop()
        self._thread.join(5)

    @property
    def url(self) -> str:
        """The root, without a slash at its end."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    @property
    def stopping(self) -> threading.Event:
        """Set when the server stops."""
        return self._server.stopping

    @property
    def requests(self) -> list[Received]:
        """Every request so far, refused ones included, in order of arrival."""
        with self._changed:
            return list(self._requests)

    def wait_for_requests(self, n: int, timeout: float = 10.0) -> bool:
        """Whether ``n`` requests have come within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._requests) >= n, timeout)

    def handle(self, handler: Handler, request: Received) -> None:
        """Answers one request; runs in the connection's thread."""
        raise NotImplementedError

    def _note(self, request: Received) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
