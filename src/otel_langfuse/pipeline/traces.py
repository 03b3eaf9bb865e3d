"""The memory of a pipeline: open and lately finished traces, bounded in spans and in time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from otel_langfuse.model import Facts, SpanView
from otel_langfuse.pipeline.packing import Packed, pack, unpack
from otel_langfuse.pipeline.tree import Node, SpanStart, Trace

__all__ = ["Traces"]

_MAX_OWED = 100_000
_MAX_SCOPES = 256
_LONGEST = 256  # characters of a scope's name that is remembered


class _Counted(dict[str, bool]):
    """By scope, whether its open spans are counted."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        super().__init__()
        self._prefixes = prefixes

    def __missing__(self, scope: str) -> bool:
        counted = scope.startswith(self._prefixes)
        if len(self) < _MAX_SCOPES and len(scope) <= _LONGEST:
            self[scope] = counted
        return counted


def _count(scopes: dict[str, int], scope: str, more: int = 1) -> dict[str, int]:
    """Counts an open span of a scope, or one less; scopes without any are not there."""
    number = scopes.get(scope, 0) + more
    if number:
        scopes[scope] = number
    else:
        del scopes[scope]
    return scopes


class Traces:
    """Finds nodes by id, and says which traces may be forgotten.

    Args:
        linger: Seconds that a trace without open spans is remembered.
        max_open: Seconds after its last activity that a trace with open spans is remembered.
        max_nodes: Spans to remember over all traces; the longest idle go first.
        max_ids: Spans of forgotten traces to remember by their ids.
        scopes: Prefixes of scopes whose open spans are counted.
        read: What a span says; asked again for one that waited in a packed trace.

    Attributes:
        open_scopes: Those scopes, with the number of their open spans.
        nodes: Spans that are remembered.
    """

    def __init__(
        self,
        linger: float,
        max_open: float,
        max_nodes: int,
        max_ids: int,
        scopes: tuple[str, ...],
        read: Callable[[SpanView], Facts],
    ) -> None:
        self._linger = linger
        self._max_open = max_open
        self._max_nodes = max_nodes
        # Each in order of last activity.
        self._open: OrderedDict[bytes, Trace] = OrderedDict()
        self._idle: OrderedDict[bytes, Trace | Packed] = OrderedDict()
        self._rested: dict[bytes, None] = {}  # those that `pack` has not seen
        self._read = read
        # Spans that a placeholder stands for, whose trace is forgotten: when they end at last, they replace it.
        self._owed: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()
        # Of forgotten traces with rows, by trace and span id: the row that the span is, or stands below.
        self._places: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
        self._max_ids = max_ids
        self._last: Trace | None = None  # the last one in `_open`, if it is known
        self._counted = _Counted(scopes)
        self.open_scopes: dict[str, int] = {}
        self.nodes = 0

    def of(self, trace_id: bytes, now: float) -> Trace:
        """The trace, which is active now."""
        trace = self._last
        if trace is None or trace.trace_id != trace_id:
            trace = self._open.get(trace_id)
            if trace is not None:
                self._open.move_to_end(trace_id)
            else:
                known = self._idle.pop(trace_id, None)
                trace = Trace(trace_id) if known is None else self.whole(trace_id, known)
                self._open[trace_id] = trace
            self._last = trace
        trace.last_seen = now
        return trace

    def add(self, trace: Trace, span_id: bytes, parent_id: bytes, start_ns: int, start: SpanStart | None = None) -> Node:
        """A new open node; one that a placeholder stood for is promised."""
        if self._places and parent_id and parent_id not in trace.nodes:
            self._recall(trace, parent_id, start_ns)
        self.nodes += 1
        node = trace.add(span_id, parent_id, start_ns)
        if start is not None:
            self._begin(node, start)
        if self._owed and (trace.trace_id, span_id) in self._owed:
            del self._owed[trace.trace_id, span_id]
            node.promised = True
        return node

    def is_known(self, trace_id: bytes, span_id: bytes) -> bool:
        """Whether a span has been seen and its place is remembered."""
        node = self.find(trace_id, span_id)
        return not node.expected if node is not None else (trace_id, span_id) in self._places

    def was_written(self, trace_id: bytes, span_id: bytes) -> bool:
        """Whether a row for a span of a forgotten trace was written."""
        return self._places.get((trace_id, span_id)) == span_id

    def _recall(self, trace: Trace, span_id: bytes, start_ns: int) -> None:
        """Puts a row of a forgotten trace back, for a span that comes late below it; all that is left of it is its id."""
        row_id = self._places.get((trace.trace_id, span_id))
        if row_id is None:
            return
        for known in dict.fromkeys((row_id, span_id)):
            if known not in trace.nodes:
                self.nodes += 1
                node = trace.add(known, b"" if known == row_id else row_id, start_ns)
                self.close(node)
                node.written = node.kept = node.promised = known == row_id
        if trace.root is None:
            trace.root = trace.nodes[row_id].entry

    def expect(self, trace: Trace, span_id: bytes, start_ns: int) -> None:
        """Makes room for a span that has not been seen and is the parent of one that has."""
        self.add(trace, span_id, b"", start_ns).expected = True

    def arrive(self, node: Node, parent_id: bytes, start_ns: int, start: SpanStart | None = None) -> None:
        """An expected span has come."""
        node.trace.adopt(node, parent_id, start_ns)
        if start is not None:
            self._begin(node, start)

    def _begin(self, node: Node, start: SpanStart) -> None:
        node.live, node.propagated = start.live, start.propagated
        if self._counted[start.scope]:
            node.start_scope = start.scope
            _count(self.open_scopes, start.scope)
            node.trace.open_scopes = _count(dict(node.trace.open_scopes), start.scope)

    def close(self, node: Node) -> None:
        """Notes that a span has ended, or counts as ended."""
        node.open = False
        node.trace.open -= 1
        node.live = None
        if node.start_scope is not None:
            _count(self.open_scopes, node.start_scope, -1)
            node.trace.open_scopes = _count(dict(node.trace.open_scopes), node.start_scope, -1)

    def rest(self, trace: Trace) -> None:
        """Lets a trace without open spans wait for late ones."""
        if not trace.open and trace.trace_id in self._open:
            self._idle[trace.trace_id] = self._open.pop(trace.trace_id)
            self._rested[trace.trace_id] = None
            self._last = None

    def pack(self) -> None:
        """Packs the traces that have come to rest since it was called last."""
        while self._rested:
            trace_id, _ = self._rested.popitem()
            trace = self._idle.get(trace_id)
            if isinstance(trace, Trace):
                packed = pack(trace)
                if packed is not None:
                    self._idle[trace_id] = packed
                    trace.let_go()
                    trace.root = None

    def whole(self, trace_id: bytes, known: Trace | Packed) -> Trace:
        """A trace, unpacked if it is packed."""
        return known if isinstance(known, Trace) else unpack(trace_id, known, self._read)

    def owe(self, trace_id: bytes, span_id: bytes) -> None:
        """Remembers that a placeholder was written for a span."""
        self._owed[trace_id, span_id] = None
        if len(self._owed) > _MAX_OWED:
            self._owed.popitem(last=False)

    def stale(self, now: float) -> Iterator[tuple[bytes, Trace | Packed]]:
        """Traces to forget, by id; the caller forgets each before it asks for the next."""
        while self._idle:
            trace_id, known = next(iter(self._idle.items()))
            last_seen = known.last_seen if isinstance(known, Trace) else known[0]
            if not self._is_due(last_seen, self._linger, now):
                break
            yield trace_id, known
        while self._open:
            trace_id, trace = next(iter(self._open.items()))
            if not self._is_due(trace.last_seen, self._max_open, now):
                break
            yield trace_id, trace

    def _is_due(self, last_seen: float, patience: float, now: float) -> bool:
        return now - last_seen > patience or self.nodes > self._max_nodes

    def find(self, trace_id: bytes, span_id: bytes) -> Node | None:
        """The node of a span, if it is remembered."""
        known = self._open.get(trace_id) or self._idle.get(trace_id)
        return self.whole(trace_id, known).nodes.get(span_id) if known is not None else None

    def all(self) -> list[tuple[bytes, Trace | Packed]]:
        """Every trace that is remembered, by id."""
        return [*self._idle.items(), *self._open.items()]

    def drop(self, trace_id: bytes) -> int:
        """Lets go of a packed trace as it is; how many of its spans could still have got a row."""
        known = self._idle.get(trace_id)
        if known is None or isinstance(known, Trace):
            return 0
        _, number, waiting, _ = known
        del self._idle[trace_id]
        self.nodes -= number
        return len(waiting)

    def forget(self, trace: Trace) -> None:
        """Lets go of a trace."""
        for node in trace.nodes.values():
            if node.open:
                self.close(node)
        if self._max_ids:
            self._note_places(trace)
        self._open.pop(trace.trace_id, None)
        self._idle.pop(trace.trace_id, None)
        self._rested.pop(trace.trace_id, None)
        self._last = None
        self.nodes -= len(trace.nodes)
        trace.let_go()

    def _note_places(self, trace: Trace) -> None:
        if trace.root is None:
            return  # no row: a late span below it starts anew
        for span_id, node in trace.nodes.items():
            if not node.expected:
                row = node if node.written else next((above for above in node.ancestors() if above.written), trace.root)
                self._places[trace.trace_id, span_id] = row.span_id
                self._places.move_to_end((trace.trace_id, span_id))
        while len(self._places) > self._max_ids:
            self._places.popitem(last=False)
