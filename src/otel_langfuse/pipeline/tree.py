"""The tree of each trace, as far as it is known, and the rule for where a row stands in Langfuse.

Langfuse gets the OpenTelemetry tree contracted to its GenAI spans and the entry span. A parent is resolved by id
first; only when the bridge has not seen it does absence, remoteness or sampling make the span an entry. No row waits
for an ancestor: its parent is the nearest ancestor already known to be kept, at the latest the entry span, which is
kept as soon as a GenAI span lies below it. An id written as a parent is promised: that span is written when it
ends, whatever it is, or as a placeholder.

A parent that has not been seen, although it is of the same process, may be *expected*: it gets a node that is promised
like any other and finds its own place when the span comes (the sidecar sees children before their parents).

A trace has one root row: later entries of the same trace (several spans below one unseen parent) stand below its
first entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from otel_langfuse.model import Facts, ObservationType, SpanView, Value
from otel_langfuse.pipeline.context import Context
from otel_langfuse.pipeline.root import Lifted

__all__ = ["CallRef", "Live", "Node", "SpanStart", "Trace", "kept_parent"]

_MAX_CALLS_BELOW = 8
_NO_SCOPES: Mapping[str, int] = MappingProxyType({})


class Live(Protocol):
    """A look at a span that may still be open."""

    def look(self) -> SpanView | None:
        """The span as it is now; ``None`` when nothing changed since the last look, or it is gone."""

    def peek(self) -> SpanView | None:
        """The span as it is now, changed or not; ``None`` when it is gone."""

    def dropped(self, kept: Mapping[str, Value]) -> Mapping[str, Value]:
        """The attributes that the span had at its start and that are not among those it ended with: the SDK has a limit."""


@dataclass(slots=True)
class SpanStart:
    """What is known when a span starts. ``parent_id`` is empty without a parent."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    start_ns: int
    scope: str = ""
    live: Live | None = None
    propagated: Context | None = None


@dataclass(slots=True)
class CallRef:
    """A model call that has been written: enough to tell whether another span is the same call. Changed by nobody.

    ``asked`` and ``answered`` are the models' names, empty where nothing is said.
    """

    trace_id: bytes
    span_id: bytes
    scope: str
    asked: str
    answered: str
    response_id: str | None


class Node:
    """One span's place in its trace. Most of what can be known of a span is not: that stands on the class.

    ``expected`` says that only its id is known; ``kept`` that a row for it is certain; ``promised`` that another row names
    it as parent; ``type`` is known once a reader recognised the span, ended or not. ``pending`` is an ended entry span that
    no GenAI span needs yet. ``looked_at`` is when it was looked at last while it was open. What holds the
    application's span (``live``) is let go when it ends.
    """

    live: Live | None = None
    start_scope: str | None = None
    propagated: Context | None = None
    own: Context | None = None
    open: bool = True
    expected: bool = False
    kept: bool = False
    promised: bool = False
    written: bool = False
    type: ObservationType | None = None
    scope: str = ""
    shown_name: str | None = None
    pending: tuple[SpanView, Facts] | None = None
    donated: Facts | None = None
    usage_below: bool = False
    call: CallRef | None = None
    calls_below: tuple[CallRef, ...] = ()
    lifted: Lifted | None = None
    found: Context | None = None
    looked_at: int = -1
    _entry: Node | None = None

    def __init__(self, trace: Trace, span_id: bytes, parent: Node | None, start_ns: int) -> None:
        self.trace = trace
        self.span_id = span_id
        self.parent = parent
        self.start_ns = start_ns

    @property
    def entry(self) -> Node:
        """The entry span above (or this one); entries are roots of what the bridge has seen of the trace."""
        node = self
        while node.parent is not None:
            node = node._entry or node.parent
        if node is not self:
            self._entry = node  # an expected span above may have found its place since
        return node

    @property
    def is_entry(self) -> bool:
        """Whether no seen span is this one's parent."""
        return self.parent is None

    def ancestors(self) -> Iterator[Node]:
        """The spans above, nearest first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def remember_call(self, ref: CallRef) -> None:
        """Notes a model call below, up to the number that tells one from many."""
        if len(self.calls_below) < _MAX_CALLS_BELOW:
            self.calls_below += (ref,)


class Trace:
    """The nodes of one trace."""

    __slots__ = ("last_seen", "name", "name_rank", "nodes", "open", "open_scopes", "root", "trace_id")

    def __init__(self, trace_id: bytes) -> None:
        self.trace_id = trace_id
        self.nodes: dict[bytes, Node] = {}
        self.root: Node | None = None
        self.open = 0
        self.open_scopes: Mapping[str, int] = _NO_SCOPES
        self.last_seen = 0.0
        self.name: str | None = None
        self.name_rank = 0

    def add(self, span_id: bytes, parent_id: bytes, start_ns: int) -> Node:
        """A new node, open, below its parent if that has been seen."""
        parent = self.nodes.get(parent_id) if parent_id and parent_id != span_id else None
        node = Node(self, span_id, parent, start_ns)
        self.nodes[span_id] = node
        if parent is not None:
            node._entry = parent.entry  # noqa: SLF001  # its own
        self.open += 1
        return node

    def adopt(self, node: Node, parent_id: bytes, start_ns: int) -> None:
        """Puts an expected span where it belongs, now that it has come, with what was found below it meanwhile."""
        node.expected = False
        node.start_ns = start_ns
        parent = self.nodes.get(parent_id) if parent_id else None
        if parent is None or parent is node or any(above is node for above in parent.ancestors()):
            return
        node.parent = parent
        entry = node.entry
        if self.root is node:
            self.root = entry
        entry.lifted, node.lifted = entry.lifted or node.lifted, None
        entry.found, node.found = entry.found or node.found, None
        for ancestor in node.ancestors():
            ancestor.usage_below = ancestor.usage_below or node.usage_below
            for ref in node.calls_below:
                ancestor.remember_call(ref)

    def let_go(self) -> None:
        """Forgets its nodes, which know their trace: what is in no circle is freed at once, without the garbage collector.

        Its root stays: a span may be on its way through the pipeline when a callback of the user's ends everything.
        """
        self.nodes.clear()

    def root_for(self, entry: Node, recognise: Callable[[Node], bool]) -> Node:
        """The one root row of this trace, chosen when its first row is written.

        The entry that started first, among those already known to be kept, else ``entry``.
        """
        if self.root is None:
            entries = [node for node in self.nodes.values() if node.parent is None]
            known = [node for node in entries if node is entry or node.kept or node.promised or recognise(node)]
            self.root = min(known, key=lambda node: node.start_ns) if len(known) > 1 else entry
        return self.root


def kept_parent(node: Node, recognise: Callable[[Node], bool]) -> Node | None:
    """The row above ``node``: its nearest ancestor known to be kept; ``None`` for the trace's root.

    The answer is promised by the caller.
    """
    ancestor = node.parent
    while ancestor is not None:
        if ancestor.kept or ancestor.promised or ancestor.parent is None or recognise(ancestor):
            return ancestor
        ancestor = ancestor.parent
    root = node.trace.root_for(node, recognise)
    return None if root is node else root
