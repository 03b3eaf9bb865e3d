"""An HTTP/2 client for tests: h2 for what a client may do, frames written by hand for what none may."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack

from sidecar.receiving import DEADLINE, Bench, trace_request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
NO_ERROR, PROTOCOL, FLOW_CONTROL, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 0, 1, 3, 5, 6, 7, 8, 9, 11
END_STREAM, END_HEADERS, PADDED, PRIORITISED, ACK = 0x1, 0x4, 0x8, 0x20, 0x1


def raw(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0) -> bytes:
    """A frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def fields(*more: tuple[str, str], **replaced: str) -> list[tuple[str, str]]:
    """The header fields of an export; ``replaced`` by names without their colon."""
    found = {":method": "POST", ":scheme": "http", ":path": TRACES, ":authority": "x", "te": "trailers"}
    found |= {"content-type": "application/grpc"}
    found |= {name if name in found else f":{name}": value for name, value in replaced.items()}
    return [*found.items(), *more]


def block(*more: tuple[str, str], **replaced: str) -> bytes:
    """A header block for frames by hand: nothing in it enters the compression's table."""
    never = [hpack.NeverIndexedHeaderTuple(*pair) for pair in fields(*more, **replaced)]
    return hpack.Encoder().encode(never, huffman=False)


def message(body: bytes, *, flag: int = 0, size: int | None = None) -> bytes:
    """A message as gRPC frames it."""
    return struct.pack(">BI", flag, len(body) if size is None else size) + body


@dataclass
class Answer:
    """What a stream was told."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str | None:
        return (self.trailers or self.headers).get("grpc-status")

    @property
    def words(self) -> str:
        return unquote((self.trailers or self.headers).get("grpc-message", ""))


class Wire:
    """One connection to a receiver."""

    def __init__(self, address: tuple[str, int], settings: dict[Any, int] | None = None) -> None:
        self.sock = socket.create_connection(address, timeout=DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.http = h2.connection.H2Connection(config)
        if settings:
            self.http.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self.http.initiate_connection()
        self.answers: dict[int, Answer] = {}
        self.goaway: tuple[int, bytes] | None = None
        self.pings = 0
        self.pongs = 0
        self.closed = False
        self.acknowledge = True
        self.answer_pings = True
        self.flush()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # ------------------------------------------------------------------------------------------------- sending

    def flush(self) -> None:
        self.sock.sendall(self.http.data_to_send())

    def send_raw(self, *frames: bytes) -> None:
        """Frames that h2 knows nothing of."""
        self.flush()
        self.sock.sendall(b"".join(frames))

    def begin(self, *more: tuple[str, str], ended: bool = False, **replaced: str) -> int:
        """Sends the header fields of a call; its stream."""
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, fields(*more, **replaced), end_stream=ended)
        self.answers[stream] = Answer()
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, ended: bool = True) -> None:
        """Sends a part of a body, as the receiver gives room."""
        view = memoryview(data)
        while view:
            room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size, len(view))
            if room:
                self.http.send_data(stream, bytes(view[:room]))
                view = view[room:]
                self.flush()
            else:
                self.hear()
        if ended:
            self.http.end_stream(stream)
        self.flush()

    def call(self, body: bytes, *more: tuple[str, str], flag: int = 0, **replaced: str) -> Answer:
        """A whole call and its answer."""
        stream = self.begin(*more, **replaced)
        self.send(stream, message(body, flag=flag))
        return self.answered(stream)

    # ------------------------------------------------------------------------------------------------- hearing

    def hear(self) -> None:
        """Takes in what comes next."""
        data = b"" if self.closed else self.sock.recv(65536)
        if not data:
            self.closed = True
            raise EOFError
        for event in self.http.receive_data(data):
            self._on(event)
        if self.answer_pings:
            self.flush()

    def answered(self, stream: int) -> Answer:
        """The answer, when it has ended."""
        answer = self.answers[stream]
        while not answer.ended and answer.reset is None:
            self.hear()
        return answer

    def gone(self) -> tuple[int, bytes] | None:
        """Hears until the connection ends; the receiver's last words."""
        try:
            while True:
                self.hear()
        except (EOFError, ConnectionError):
            return self.goaway

    def ping(self) -> None:
        """Asks whether the receiver is there, and waits for the answer."""
        before = self.pongs
        self.http.ping(bytes(8))
        self.flush()
        while self.pongs == before:
            self.hear()

    def _on(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.answers[event.stream_id].headers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.answers[event.stream_id].body += event.data
            if self.acknowledge:
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.answers[event.stream_id].trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            self.answers[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id].reset = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = (int(event.error_code), event.additional_data or b"")
        elif isinstance(event, h2.events.PingReceived):
            self.pings += 1
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1


@dataclass
class Frame:
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The last four bytes of what comes first: an error's code, or a window's growth."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload[:4], "big")


class RawLine:
    """A connection on which frames are written by hand.

    Args:
        greeting: What is sent at once.
    """

    def __init__(self, address: tuple[str, int], greeting: bytes = PREFACE + raw(SETTINGS)) -> None:
        self.sock = socket.create_connection(address, timeout=DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self.sock.makefile("rb")
        self._decoder = hpack.Decoder()
        self.send(greeting)

    def __enter__(self) -> RawLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.sock.close()

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def frames(self) -> Iterator[Frame]:
        """What comes, until the connection ends."""
        try:
            while len(head := self._stream.read(9)) == 9:
                size = int.from_bytes(head[:3], "big")
                yield Frame(head[3], head[4], int.from_bytes(head[5:], "big"), self._stream.read(size))
        except ConnectionError:
            return

    def until(self, kind: int, stream: int | None = None) -> Frame:
        """The next frame of a kind."""
        return next(frame for frame in self.frames() if frame.kind == kind and stream in (None, frame.stream))

    def fields_of(self, frame: Frame) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._decoder.decode(frame.payload)}


def still_serves(bench: Bench) -> bool:
    """Whether another client is served."""
    with Wire(bench.address) as other:
        return other.call(trace_request()).status == "0"
