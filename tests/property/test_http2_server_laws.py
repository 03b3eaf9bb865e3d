"""Laws of the HTTP/2 server: it does not matter how the bytes are cut, and nothing that comes breaks it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from otel_langfuse.sidecar.http2.frames import ViolationError
from otel_langfuse.sidecar.http2.server import Server, Stream
from sidecar.http2_client import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    RST,
    SETTINGS,
    WINDOW,
    block,
    raw,
)


class Recording:
    """An application that answers each request with its number, and keeps what it was told."""

    def __init__(self) -> None:
        self.server: Server[Stream] = Server(self, streams=3)
        self.told: list[object] = []
        self.bodies: dict[int, bytes] = {}

    def make(self, number: int) -> Stream:
        return Stream(number)

    def begun(self, stream: Stream, fields: Mapping[bytes, bytes]) -> None:
        self.told.append((stream.number, dict(fields)))

    def received(self, stream: Stream, data: memoryview) -> None:
        self.bodies[stream.number] = self.bodies.get(stream.number, b"") + data

    def completed(self, stream: Stream) -> None:
        self.told.append((stream.number, "complete"))
        if stream.number % 4 == 1:
            self.server.answer(stream, b"\x88", b"answer", b"\x88")

    def abandoned(self, stream: Stream) -> None:
        self.told.append((stream.number, "abandoned"))

    def pinged(self) -> None:
        self.told.append("ping")


def outcome(parts: list[bytes]) -> tuple[object, ...]:
    """What a connection comes to that gets these bytes."""
    application, ending = Recording(), ""
    for part in parts:
        try:
            application.server.take(memoryview(part))
            while application.server.reader.behind:
                application.server.take(memoryview(b""))
        except ViolationError as error:
            ending = f"{error.code} {error}"
            break
    return application.told, application.bodies, bytes(application.server.out), [*application.server.open], ending


# Mostly those that the connections below begin with.
streams = st.sampled_from([1, 1, 1, 3, 3, 3, 3, 5, 7])
bodies = st.binary(max_size=40)
flags = st.sampled_from([0, END_STREAM])


@st.composite
def header_blocks(draw: st.DrawFn) -> bytes:
    stream, ended, whole = draw(streams), draw(flags), block(("x", draw(st.text("ab", max_size=9))))
    cut = draw(st.integers(1, len(whole) - 1))
    style = draw(st.sampled_from(["plain", "pieces", "padded", "prioritised"]))
    if style == "pieces":
        return raw(HEADERS, whole[:cut], stream, ended) + raw(CONTINUATION, whole[cut:], stream, END_HEADERS)
    if style == "padded":
        return raw(HEADERS, b"\x04" + whole + bytes(4), stream, END_HEADERS | PADDED | ended)
    if style == "prioritised":
        return raw(HEADERS, struct.pack(">IB", 0, 9) + whole, stream, END_HEADERS | PRIORITISED | ended)
    return raw(HEADERS, whole, stream, END_HEADERS | ended)


padded = st.builds(
    lambda body, padding, stream, ended: raw(DATA, bytes((padding,)) + body + bytes(padding), stream, PADDED | ended),
    bodies, st.integers(0, 9), streams, flags,
)  # fmt: skip
frames = st.one_of(
    header_blocks(),
    header_blocks(),
    st.builds(lambda body, stream, ended: raw(DATA, body, stream, ended), bodies, streams, flags),
    padded,
    st.builds(lambda stream: raw(RST, bytes(4), stream), streams),
    st.builds(lambda stream, size: raw(WINDOW, size.to_bytes(4, "big"), stream), st.just(0) | streams, st.integers(1, 99)),
    st.builds(lambda size: raw(SETTINGS, struct.pack(">HI", 4, size)), st.integers(0, 99)),
    st.sampled_from([raw(SETTINGS, flags=ACK), raw(PING, bytes(8)), raw(PRIORITY, bytes(5), 1), raw(0xFA, b"more")]),
)
OPENED = PREFACE + raw(SETTINGS) + b"".join(raw(HEADERS, block(), stream, END_HEADERS) for stream in (1, 3))
connections = st.lists(frames, max_size=12).map(lambda made: OPENED + b"".join(made))


@given(connections, st.lists(st.integers(0, len(OPENED) + 400), max_size=8))
@example(OPENED + raw(PING, bytes(8)) * 1000 + raw(DATA, b"the body", 1, END_STREAM), [20_000])
def test_it_does_not_matter_how_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    parts = [data[at:end] for at, end in pairwise(places)]
    assert outcome(parts) == outcome([data])
    assert outcome([data[at : at + 1] for at in range(len(data))]) == outcome([data])


@given(
    connections, st.lists(st.tuples(st.integers(0, len(OPENED) + 400), st.integers(0, 255)), max_size=6), st.binary(max_size=60)
)
@example(PREFACE, [], bytes(9))
def test_nothing_that_comes_breaks_it(data: bytes, damage: list[tuple[int, int]], end: bytes) -> None:
    """A client that breaks the rules is a ``ViolationError``, and never anything else."""
    damaged = bytearray(data)
    for place, value in damage:
        if place < len(damaged):
            damaged[place] = value
    outcome([bytes(damaged) + end])
