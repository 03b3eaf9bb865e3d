"""Whatever a server refuses, every good span arrives exactly once and every other one is counted."""

from __future__ import annotations

import gzip
from collections import Counter, deque
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.answers import Endpoint
from otel_langfuse.langfuse.dispatch import Dispatcher
from otel_langfuse.langfuse.request import Request, seal, unpack
from otel_langfuse.langfuse.splitting import CUT_FLOOR, cut, halves
from otel_langfuse.langfuse.transport import Answer, TransportError
from otel_langfuse.langfuse.wire import EncodedSpan, encode_resource, encode_scope, encode_span

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make_span(index: int, text: str = "", home: str = "a", **attributes: str) -> EncodedSpan:
    given_ = {"langfuse.observation.input": text, "langfuse.user.id": "someone", **attributes}
    span = encode_span(
        trace_id=b"t" * 16,
        span_id=index.to_bytes(8, "big"),
        parent_id=b"",
        name=str(index),
        kind=1,
        start_ns=1,
        end_ns=2,
        attributes=given_,
        status_code=0,
        status_message="",
    )
    return EncodedSpan(b"t" * 16, b"s" * 8, encode_resource({"service.name": home}), encode_scope(home, "1"), span)


def parse(payload: bytes) -> list[Span]:
    message = ExportTraceServiceRequest.FromString(payload)
    return [span for group in message.resource_spans for scoped in group.scope_spans for span in scoped.spans]


class Server:
    """Stores what it accepts. Refuses by size, then by bad spans; ``faults`` come before either."""

    def __init__(self, *, bad: frozenset[int] = frozenset(), limit: int | None = None, faults: str = "") -> None:
        self.bad = {str(index) for index in bad}
        self.limit = limit
        self.faults = deque(faults)
        self.stored: list[Span] = []
        self.requests = 0

    def post(self, body: bytes, *, compressed: bool, timeout: float) -> Answer:
        self.requests += 1
        spans = parse(gzip.decompress(body) if compressed else body)
        fault = self.faults.popleft() if self.faults else "."
        if fault == "5":
            return Answer(503)
        if fault == "r":
            raise TransportError("refused", "the connection was refused")
        if self.limit is not None and len(body) > self.limit:
            return Answer(413)
        if any(span.name in self.bad for span in spans):
            return Answer(400)
        self.stored += spans
        if fault == "a":
            raise TransportError("reset", "the connection broke", sent=True)
        return Answer(200)

    @property
    def times(self) -> Counter[int]:
        return Counter(int(span.name) for span in self.stored)


def deliver(server: Server, request: Request) -> tuple[Counters, Counter[str]]:
    counters = Counters()
    dispatcher = Dispatcher(
        server,
        endpoint=Endpoint(),
        counters=counters,
        max_age=600,
        clock=lambda: 0.0,
        wall_clock=lambda: 0.0,
        random=lambda: 0.0,
    )
    waiting = deque([request])
    ends: Counter[str] = Counter()
    while waiting:
        request = waiting.popleft()
        outcome = dispatcher.attempt(request, 1.0)
        assert outcome.delivered + outcome.dropped + sum(part.spans for part in outcome.requests) == request.spans
        ends["delivered"] += outcome.delivered
        if outcome.dropped:
            ends[outcome.reason] += outcome.dropped
        waiting.extendleft(reversed(outcome.requests))
    return counters, ends


sizes_and_bad = st.integers(1, 40).flatmap(
    lambda n: st.tuples(st.just(n), st.frozensets(st.integers(0, n - 1)), st.text("5r.", max_size=12))
)


@few
@given(sizes_and_bad, st.booleans())
def test_bad_spans_are_isolated(case: tuple[int, frozenset[int], str], compressed: bool) -> None:
    n, bad, faults = case
    server = Server(bad=bad, faults=faults)
    homes = ["abc"[index % 3] for index in range(n)]
    spans = [make_span(index, home=home) for index, home in enumerate(homes)]
    _, ends = deliver(server, seal(spans, compressed=compressed))
    assert server.times == dict.fromkeys(set(range(n)) - bad, 1)
    assert ends["delivered"] == n - len(bad)
    assert ends["rejected"] == len(bad)
    assert server.requests <= 2 * n + len(faults)


@few
@given(st.lists(st.integers(0, 9000), min_size=1, max_size=15), st.integers(3000, 30_000), st.text("5r.", max_size=8))
def test_large_requests_are_split(lengths: list[int], limit: int, faults: str) -> None:
    """With a limit that a cut span fits into nothing is lost; what fits whole is not cut."""
    server = Server(limit=limit, faults=faults)
    spans = [make_span(index, "x" * length) for index, length in enumerate(lengths)]
    counters, ends = deliver(server, seal(spans, compressed=False))
    assert server.times == dict.fromkeys(range(len(lengths)), 1)
    assert ends == {"delivered": len(lengths)}
    cut_indexes = {int(span.name) for span in server.stored if "[cut by" in span.attributes[0].value.string_value}
    assert cut_indexes == {index for index, span in enumerate(spans) if len(seal([span], compressed=False).body) > limit}
    assert counters.counts.get("cut_spans", 0) >= len(cut_indexes)
    assert {span.attributes[1].value.string_value for span in server.stored} == {"someone"}


@few
@given(sizes_and_bad, st.integers(300, 3000))
def test_refusals_of_both_kinds_and_any_limit(case: tuple[int, frozenset[int], str], limit: int) -> None:
    n, bad, faults = case
    server = Server(bad=bad, limit=limit, faults=faults)
    spans = [make_span(index, "x" * (index * 100)) for index in range(n)]
    _, ends = deliver(server, seal(spans, compressed=False))
    assert all(times == 1 for times in server.times.values())
    assert not server.times.keys() & bad
    assert ends["delivered"] == len(server.times)
    assert sum(ends.values()) == n
    # Below the floor a span is not cut, so only a limit below it may cost one.
    if limit > CUT_FLOOR + 400:
        assert not ends["too_large"]


@few
@given(sizes_and_bad)
def test_twice_only_where_the_outcome_was_unknown(case: tuple[int, frozenset[int], str]) -> None:
    n, bad, faults = case
    server = Server(bad=bad, faults=faults.replace("r", "a"))
    counters, _ = deliver(server, seal([make_span(index) for index in range(n)], compressed=True))
    assert set(server.times) == set(range(n)) - bad
    assert server.times.total() - len(server.times) == counters.counts.get("ambiguous_resend", 0)


@few
@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=20), st.booleans())
def test_halves_keep_spans_in_order_under_their_own_resource(homes: list[str], compressed: bool) -> None:
    request = seal([make_span(index, home=home) for index, home in enumerate(homes)], compressed=compressed, ticket=7)
    first, rest = halves(request)
    assert (first.spans, rest.spans) == (len(homes) // 2, len(homes) - len(homes) // 2)
    assert (first.ticket, rest.ticket, first.compressed) == (7, 7, compressed)
    assert parse(unpack(first)) + parse(unpack(rest)) == parse(unpack(request))
    for part in (first, rest):
        for group in ExportTraceServiceRequest.FromString(unpack(part)).resource_spans:
            home = group.resource.attributes[0].value.string_value
            for scoped in group.scope_spans:
                assert scoped.scope.name == home
                assert all(homes[int(span.name)] == home for span in scoped.spans)


@few
@given(st.text(min_size=1, max_size=20), st.integers(3000, 9000), st.text(max_size=20), st.integers(0, 300))
def test_a_cut_takes_about_half_and_says_how_much(one: str, length: int, other: str, times: int) -> None:
    """Cutting ends; marks add up over several cuts; the text stays the beginning of what it was."""
    first, second = (one * length)[:length], other * times
    request: Request | None = seal([make_span(0, first, **{"langfuse.observation.output": second})], compressed=False)
    texts = {"langfuse.observation.input": first, "langfuse.observation.output": second}
    size, rounds = len(request.body), 0
    while (request := cut(request)) is not None:
        rounds += 1
        assert len(request.body) < size
        size = len(request.body)
        (span,) = parse(request.body)
        for attribute in span.attributes:
            text = texts.get(attribute.key)
            kept, mark, count = attribute.value.string_value.rpartition("[cut by otel-langfuse: ")
            if text is None or not mark:
                continue
            assert text.startswith(kept)
            assert int(count.removesuffix(" bytes]")) == len(text.encode()) - len(kept.encode())
    assert 1 <= rounds <= 12
    assert size <= CUT_FLOOR


def test_what_is_no_text_is_not_cut() -> None:
    """Ids and numbers keep their meaning: a span that is large for them is given up instead."""
    span = make_span(0, **{"langfuse.trace.name": "n" * 9000, "langfuse.observation.usage_details": "u" * 9000})
    assert cut(seal([span], compressed=True)) is None


@pytest.mark.parametrize("call", [halves, cut])
def test_bytes_that_are_no_otlp(call: Callable[[Request], object]) -> None:
    for compressed in (False, True):
        with pytest.raises(ValueError, match="no OTLP"):
            call(Request(b"\xff\xff", compressed, 2))


def test_one_span_has_no_halves() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        halves(seal([make_span(0)], compressed=False))


def test_a_server_that_refuses_everything_is_not_flooded() -> None:
    """After many refusals in a row the next one waits, longer each time."""
    pauses: list[float] = []
    counters = Counters()
    dispatcher = Dispatcher(
        Server(bad=frozenset(range(200))),
        endpoint=Endpoint(),
        counters=counters,
        max_age=600,
        clock=lambda: 0.0,
        wall_clock=lambda: 0.0,
        random=lambda: 1.0,
    )
    waiting = deque([seal([make_span(index) for index in range(200)], compressed=False)])
    while waiting:
        outcome = dispatcher.attempt(waiting.popleft(), 1.0)
        pauses.append(outcome.pause)
        waiting.extendleft(reversed(outcome.requests))
    assert pauses[:64] == [0.0] * 64
    assert pauses[64:68] == [0.5, 1.0, 2.0, 4.0]
    assert max(pauses) == 30.0


def test_isolating_ends_after_max_age() -> None:
    now = [0.0]
    dispatcher = Dispatcher(
        Server(bad=frozenset(range(4))),
        endpoint=Endpoint(),
        counters=Counters(),
        max_age=600,
        clock=lambda: now[0],
        wall_clock=lambda: 0.0,
        random=lambda: 1.0,
    )
    parts = dispatcher.attempt(seal([make_span(index) for index in range(4)], compressed=False), 1.0).requests
    now[0] = 601.0
    outcome = dispatcher.attempt(parts[0], 1.0)
    assert (outcome.dropped, outcome.reason) == (2, "rejected")
