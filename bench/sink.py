"""Endpoints in a process of their own that cost next to nothing while spans come in.

HTTP/1.1 without routing: a body is kept as it came and answered at once. Spans are counted, and looked for twice, only
when asked. Beside two such endpoints there are one that accepts and never answers, one whose port is closed, and a
gRPC one where grpc is installed. ``python -m bench.sink`` prints its ports as one JSON line and takes commands, one
JSON line each, from its standard input; it ends with its input.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

_ANSWERS = {
    200: b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
}


class Store:
    """What one endpoint got.

    Attributes:
        away_until: Until then (monotonic) it answers 503 and keeps nothing.
    """

    def __init__(self) -> None:
        self.away_until = 0.0
        self.reset()

    def reset(self) -> None:
        self.bodies: list[tuple[bytes, bool]] = []
        self.refused = 0
        self.received = 0

    def take(self, body: bytes, compressed: bool) -> int:
        if time.monotonic() < self.away_until:
            self.refused += 1
            return 503
        self.received += len(body)
        self.bodies.append((body, compressed))
        return 200

    def count(self) -> dict[str, int]:
        """Requests, bytes, spans, different spans; reads every body."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        spans = 0
        seen: set[bytes] = set()
        for body, compressed in self.bodies:
            export = ExportTraceServiceRequest.FromString(gzip.decompress(body) if compressed else body)
            for group in export.resource_spans:
                for scoped in group.scope_spans:
                    spans += len(scoped.spans)
                    seen.update(span.span_id for span in scoped.spans)
        return {
            "requests": len(self.bodies),
            "refused": self.refused,
            "bytes": self.received,
            "spans": spans,
            "unique": len(seen),
        }


class Http(asyncio.Protocol):
    """One connection."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts: list[bytes] = []
        self._held = 0
        self._need = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        while self._held and self._held >= self._need:
            joined = b"".join(self._parts)
            end = joined.find(b"\r\n\r\n")
            if end < 0:
                self._parts, self._need = [joined], self._held + 1
                return
            headers = _headers(joined[:end])
            length = int(headers.get(b"content-length", b"0"))
            self._need = end + 4 + length
            if self._held < self._need:
                self._parts = [joined]
                return
            body = joined[end + 4 : self._need]
            rest = joined[self._need :]
            self._parts, self._held, self._need = ([rest] if rest else []), len(rest), 0
            status = self._store.take(body, headers.get(b"content-encoding") == b"gzip")
            self._transport.write(_ANSWERS[status])


def _headers(head: bytes) -> dict[bytes, bytes]:
    pairs = (line.split(b":", 1) for line in head.split(b"\r\n")[1:])
    return {pair[0].strip().lower(): pair[1].strip().lower() for pair in pairs if len(pair) == 2}


def _grpc_port(store: Store) -> int:
    """Starts a gRPC endpoint that takes bytes as they are; 0 without grpc."""
    try:
        import grpc
    except ImportError:
        return 0

    def export(body: bytes, _: Any) -> bytes:
        store.take(body, compressed=False)
        return b""

    handler = grpc.unary_unary_rpc_method_handler(export)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(
        ThreadPoolExecutor(2),
        handlers=(grpc.method_handlers_generic_handler(service, {"Export": handler}),),
        options=(("grpc.max_receive_message_length", 256 << 20),),
    )
    port = int(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    _kept.append(server)
    return port


_kept: list[Any] = []


def _bound(*, listening: bool) -> int:
    """A port that never answers, or, not listening, refuses."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listening:
        sock.listen(64)
    _kept.append(sock)
    return int(sock.getsockname()[1])


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    stores = {"tempo": Store(), "langfuse": Store(), "grpc": Store()}
    ports: dict[str, int] = {}
    for name in ("tempo", "langfuse"):
        server = await loop.create_server(partial(Http, stores[name]), "127.0.0.1", 0)
        ports[name] = server.sockets[0].getsockname()[1]
    ports |= {"grpc": _grpc_port(stores["grpc"]), "silent": _bound(listening=True), "closed": _bound(listening=False)}
    print(json.dumps(ports), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer: dict[str, Any] = {}
        if command["do"] == "reset":
            for store in stores.values():
                store.reset()
        elif command["do"] == "count":
            answer = {name: store.count() for name, store in stores.items()}
        elif command["do"] == "away":
            stores[command["store"]].away_until = time.monotonic() + command["seconds"]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
