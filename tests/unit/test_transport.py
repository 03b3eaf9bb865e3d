"""The HTTP transport against real sockets: what it sends, what it reads, and what it calls each failure."""

from __future__ import annotations

import base64
import gzip
import os
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from otel_langfuse.langfuse.transport import BODY_LIMIT, HttpTransport, TransportError
from otel_langfuse.testing import FakeLangfuse, Reply, accept_then_reset, hang, reset, slow_body, slow_headers

PUBLIC, SECRET = "pk-lf-public", "sk-lf-very-secret"
Connect = Callable[..., HttpTransport]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[HttpTransport] = []

    def make(url: str, **options: object) -> HttpTransport:
        transport = HttpTransport(url, public_key=PUBLIC, secret_key=SECRET, **options)  # type: ignore[arg-type]
        made.append(transport)
        return transport

    yield make
    for transport in made:
        transport.close()


@pytest.fixture
def server() -> Iterator[FakeLangfuse]:
    with FakeLangfuse(public_key=PUBLIC, secret_key=SECRET) as fake:
        yield fake


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class _Proxy(BaseHTTPRequestHandler):
    """A forward proxy: CONNECT tunnels, anything else is answered 200 by itself."""

    server: _ProxyServer

    def do_CONNECT(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers.get("proxy-authorization", "")))
        if self.server.refuse:
            self.send_error(407)
            return
        host, _, port = self.path.partition(":")
        self.send_response_only(200)
        self.end_headers()
        with socket.create_connection((host, int(port))) as upstream:
            pair = {self.connection: upstream, upstream: self.connection}
            while True:
                for ready in select.select(list(pair), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    pair[ready].sendall(data)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.command, self.path, self.headers.get("proxy-authorization", "")))
        self.send_response_only(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class _ProxyServer(ThreadingHTTPServer):
    def __init__(self, *, refuse: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.daemon_threads = False
        self.refuse = refuse
        self.seen: list[tuple[str, str, str]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


@contextmanager
def proxy(*, refuse: bool = False) -> Iterator[_ProxyServer]:
    server = _ProxyServer(refuse=refuse)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        # Not joined: a tunnel's thread ends when the test's transport closes, which is later.
        server.block_on_close = False
        server.server_close()


def fails(transport: HttpTransport, *, timeout: float = 5.0, body: bytes = b"") -> TransportError:
    with pytest.raises(TransportError) as caught:
        transport.post(body, compressed=False, timeout=timeout)
    for secret in (SECRET, base64.b64encode(f"{PUBLIC}:{SECRET}".encode()).decode(), "hunter2"):
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value)
    return caught.value


def test_import_is_cheap() -> None:
    """urllib3 comes with the first request, not with the import."""
    code = "import sys, otel_langfuse.langfuse.delivery; sys.exit('urllib3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_request_is_what_langfuse_asks_for(server: FakeLangfuse, connect: Connect) -> None:
    answer = connect(server.traces_url).post(gzip.compress(b""), compressed=True, timeout=5)
    assert answer.status == 200
    (request,) = server.requests
    assert request.path == "/api/public/otel/v1/traces"
    headers = request.headers
    assert headers["authorization"] == "Basic " + base64.b64encode(f"{PUBLIC}:{SECRET}".encode()).decode()
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["content-encoding"] == "gzip"
    assert headers["x-langfuse-ingestion-version"] == "4"
    assert headers["x-langfuse-sdk-name"] == "otel-langfuse"
    assert headers["x-langfuse-sdk-version"]


def test_uncompressed_bodies_say_so(server: FakeLangfuse, connect: Connect) -> None:
    connect(server.traces_url).post(b"", compressed=False, timeout=5)
    assert "content-encoding" not in server.requests[0].headers


def test_further_headers_never_replace_ours(server: FakeLangfuse, connect: Connect) -> None:
    headers = {"X-Tenant": "a", "X-Langfuse-Ingestion-Version": "9", "Content-Encoding": "br", "Content-Length": "1"}
    assert connect(server.traces_url, headers=headers).post(b"", compressed=False, timeout=5).status == 200
    got = server.requests[0].headers
    assert got["x-tenant"] == "a"
    assert got["x-langfuse-ingestion-version"] == "4"
    assert "content-encoding" not in got


def test_connection_is_kept(server: FakeLangfuse, connect: Connect) -> None:
    transport = connect(server.traces_url)
    server.script([Reply(200), Reply(500), Reply(200)])
    for _ in range(3):
        transport.post(b"", compressed=False, timeout=5)
    assert len({request.client for request in server.requests}) == 1


def test_body_is_limited_and_the_connection_kept(server: FakeLangfuse, connect: Connect) -> None:
    transport = connect(server.traces_url)
    server.script([Reply(500, {"X-Detail": "yes"}, b"a" * 20_000)])
    answer = transport.post(b"", compressed=False, timeout=5)
    assert len(answer.body) == BODY_LIMIT
    assert answer.headers["x-detail"] == "yes"
    transport.post(b"", compressed=False, timeout=5)
    assert len({request.client for request in server.requests}) == 1


def test_redirects_are_not_followed(server: FakeLangfuse, connect: Connect) -> None:
    server.script([Reply(301, {"location": server.traces_url})])
    answer = connect(server.traces_url).post(b"", compressed=False, timeout=5)
    assert (answer.status, answer.headers["location"]) == (301, server.traces_url)
    assert len(server.requests) == 1


def test_slow_body_is_cut_at_the_deadline(server: FakeLangfuse, connect: Connect) -> None:
    """The status is known, so the outcome is; the body has until the deadline."""
    server.script([slow_body()])
    start = time.monotonic()
    assert connect(server.traces_url).post(b"", compressed=False, timeout=1.0).status == 200
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("behaviour", [hang, slow_headers])
def test_no_answer_in_time(server: FakeLangfuse, connect: Connect, behaviour: Callable[[], Reply]) -> None:
    """A head that trickles resets urllib3's own timeout with every byte; the deadline holds all the same."""
    server.script([behaviour()])
    start = time.monotonic()
    error = fails(connect(server.traces_url), timeout=0.3)
    assert (error.kind, error.sent) == ("timeout", True)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("behaviour", [reset, accept_then_reset])
def test_reset_after_the_request(server: FakeLangfuse, connect: Connect, behaviour: Callable[[], Reply]) -> None:
    server.script([behaviour()])
    error = fails(connect(server.traces_url))
    assert (error.kind, error.sent) == ("reset", True)


def test_reset_while_sending_is_known_not_to_be_stored(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        error = fails(connect(url), body=bytes(16 * 1024 * 1024))
        thread.join()
    assert (error.kind, error.sent) == ("reset", False)


def test_refused(connect: Connect) -> None:
    error = fails(connect(f"http://127.0.0.1:{free_port()}/"))
    assert (error.kind, error.sent) == ("refused", False)


def test_unknown_host(connect: Connect) -> None:
    error = fails(connect("http://langfuse.invalid/"))
    assert (error.kind, error.sent) == ("dns", False)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def tls_server(authority: trustme.CA, name: str = "127.0.0.1") -> Iterator[FakeLangfuse]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with FakeLangfuse(tls=context) as fake:
        yield fake


def test_tls_with_an_authority_of_ones_own(connect: Connect, authority: trustme.CA) -> None:
    with authority.cert_pem.tempfile() as ca_file, tls_server(authority) as server:
        transport = connect(server.traces_url, ca_file=ca_file)
        assert transport.post(b"", compressed=False, timeout=5).status == 200
        assert transport.post(b"", compressed=False, timeout=5).status == 200
        assert len({request.client for request in server.requests}) == 1
        server.script([slow_body()])
        assert transport.post(b"", compressed=False, timeout=0.3).status == 200
        server.script([hang()])
        error = fails(transport, timeout=0.3)
        assert (error.kind, error.sent) == ("timeout", True)


@pytest.mark.parametrize("case", ["unknown authority", "other host"])
def test_tls_refuses(connect: Connect, authority: trustme.CA, case: str) -> None:
    host = "127.0.0.1" if case == "unknown authority" else "langfuse.test"
    with authority.cert_pem.tempfile() as ca_file, tls_server(authority, host) as server:
        trusted = None if case == "unknown authority" else ca_file
        error = fails(connect(server.traces_url, ca_file=trusted))
        assert (error.kind, error.sent) == ("tls", False)
        assert "certificate" in str(error)
        assert server.requests == []


def test_ca_file_that_is_missing(connect: Connect) -> None:
    error = fails(connect("https://127.0.0.1:1/", ca_file="/does/not/exist.pem"))
    assert error.kind == "tls"
    assert "/does/not/exist.pem" in str(error)


def test_plain_http_where_tls_is_spoken(connect: Connect, server: FakeLangfuse) -> None:
    error = fails(connect(server.traces_url.replace("http:", "https:")))
    assert (error.kind, error.sent) == ("tls", False)


def test_proxy_for_plain_http(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as between:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:hunter%322@{between.address}")
        transport = connect("http://langfuse.invalid/api/public/otel/v1/traces")
        assert transport.post(b"", compressed=False, timeout=5).status == 200
        transport.close()
    ((method, path, authorization),) = between.seen
    assert (method, path) == ("POST", "http://langfuse.invalid/api/public/otel/v1/traces")
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"user:hunter22"


def test_proxy_tunnels_tls(connect: Connect, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    with authority.cert_pem.tempfile() as ca_file, tls_server(authority) as server, proxy() as between:
        monkeypatch.setenv("https_proxy", between.address)
        transport = connect(server.traces_url, ca_file=ca_file)
        assert transport.post(b"", compressed=False, timeout=5).status == 200
        transport.close()
        assert [method for method, _, _ in between.seen] == ["CONNECT"]
        assert "authorization" in server.requests[0].headers


def test_no_proxy_goes_direct(server: FakeLangfuse, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert connect(server.traces_url).post(b"", compressed=False, timeout=5).status == 200


def test_proxy_that_wants_a_login(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(refuse=True) as between:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@{between.address}")
        error = fails(connect("https://langfuse.invalid/"))
    assert (error.kind, error.sent) == ("proxy", False)
    assert "407" in str(error)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_proxy_that_cannot_be_used(connect: Connect, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://user:hunter2@127.0.0.1:{free_port()}")
    error = fails(connect("https://langfuse.invalid/"))
    assert (error.kind, error.sent) == ("proxy", False)


def test_instrumentation_is_suppressed(server: FakeLangfuse, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instrumented urllib3 would make a span of each delivery, which would be delivered, and so on."""
    import urllib3
    from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled, is_instrumentation_enabled

    seen: list[bool] = []
    original = urllib3.HTTPConnectionPool.urlopen

    def instrumented(self: urllib3.HTTPConnectionPool, *args: object, **kwargs: object) -> object:
        seen.append(is_instrumentation_enabled() or is_http_instrumentation_enabled())
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", instrumented)
    connect(server.traces_url).post(b"", compressed=False, timeout=5)
    assert seen == [False]
    assert is_instrumentation_enabled()


def test_repr_shows_no_keys(connect: Connect) -> None:
    shown = repr(connect(f"https://user:{SECRET}@langfuse.test/path?key={SECRET}"))
    assert shown == "HttpTransport(https://langfuse.test/path)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_of_a_fork_opens_its_own_connection(server: FakeLangfuse, connect: Connect) -> None:
    transport = connect(server.traces_url)
    transport.post(b"", compressed=False, timeout=5)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if transport.post(b"", compressed=False, timeout=5).status == 200 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    transport.post(b"", compressed=False, timeout=5)
    first, second, third = (request.client for request in server.requests)
    assert first == third
    assert first != second
