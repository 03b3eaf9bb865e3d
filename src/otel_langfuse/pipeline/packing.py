"""Finished traces as bytes: what late spans may need of them, out of the garbage collector's sight.

A trace is remembered for half a minute after its last span has ended. As objects, some eight for a request with one model
call, a busy application's traces would be most of what a full collection looks at, while the application stands still. As
one plain tuple they would be looked at once, value by value. The form (`marshal`) is for this process and goes nowhere.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from otel_langfuse.model import Facts, ObservationType, SpanView
from otel_langfuse.pipeline.context import Context
from otel_langfuse.pipeline.tree import CallRef, Node, Trace

__all__ = ["Packed", "pack", "unpack"]

Packed: TypeAlias = tuple[float, int, Sequence[SpanView], bytes]
"""When the trace was active last, its number of spans, those of them that could still get a row, and all the rest."""

_MOST_NODES = 64  # of a trace that is packed; more would be written anew for each late span
_SPAN_ID = 8  # bytes
_FIELDS = 15  # of a span
_NO_CALL = (None,) * 3
_TEXT = frozenset((str,))
_EXACT = frozenset((str, int, bool, bytes, tuple, dict, type(None)))


def pack(trace: Trace) -> Packed | None:
    """A trace without open spans; ``None`` if something in it is still to be done, or it is large."""
    nodes = trace.nodes
    if len(nodes) > _MOST_NODES:
        return None
    waiting: list[SpanView] = []
    root = trace.root
    fields: list[Any] = [root.span_id if root is not None else b"", trace.name, trace.name_rank]
    for span_id, node in nodes.items():
        if node.kept is not node.written:
            return None  # a call that waits for another
        if node.pending is not None:
            view, facts = node.pending
            if facts is not view.facts:
                return None  # they could not be read again
            waiting.append(view)
        type_, call, parent = node.type, node.call, node.parent
        propagated, own, found = node.propagated, node.own, node.found
        fields += (
            span_id,
            parent.span_id if parent is not None else b"",
            node.start_ns,
            node.written,
            node.pending is not None,
            type_._value_ if type_ is not None else None,
            node.scope,
            node.shown_name,
            _said(propagated) if propagated is not None else None,
            _said(own) if own is not None else None,
            _said(found) if found is not None else None,
            *((call.asked, call.answered, call.response_id) if call is not None else _NO_CALL),
            b"".join([ref.span_id for ref in node.calls_below]) if node.calls_below else b"",
        )
    if not _EXACT.issuperset(map(type, fields)):
        return None  # a text of a type of the application's own, such as numpy's, which would come back as bytes
    for view in waiting:
        view.facts = None
    return trace.last_seen, len(nodes), tuple(waiting), marshal.dumps(fields)


def unpack(trace_id: bytes, packed: Packed, read: Callable[[SpanView], Facts]) -> Trace:
    """The trace as it was, but for what matters only while a span is open; ``read`` says again what a span says."""
    _, _, waiting, rest = packed
    root, name, rank, *fields = marshal.loads(rest)  # noqa: S302  # written by `pack`, in this process
    spans = [fields[at : at + _FIELDS] for at in range(0, len(fields), _FIELDS)]
    trace = Trace(trace_id)
    nodes = trace.nodes
    for span_id, _, start_ns, written, _, type_, scope, shown, propagated, own, found, *call in spans:
        node = nodes[span_id] = Node(trace, span_id, None, start_ns)
        node.open = False
        node.written = node.kept = written
        node.type = ObservationType(type_) if type_ is not None else None
        node.scope, node.shown_name = scope, shown
        node.propagated, node.own, node.found = _context(propagated), _context(own), _context(found)
        asked, answered, response_id, _ = call
        node.call = CallRef(trace_id, span_id, scope, asked, answered, response_id) if asked is not None else None
    views = iter(waiting)
    for span_id, parent_id, _, _, waits, *_, calls in spans:
        node = nodes[span_id]
        node.parent = nodes[parent_id] if parent_id else None
        below = [nodes[calls[at : at + _SPAN_ID]].call for at in range(0, len(calls), _SPAN_ID)]
        node.calls_below = tuple([ref for ref in below if ref is not None])
        if waits:
            view = next(views)
            node.pending = (view, read(view))
    trace.root = nodes[root] if root else None
    trace.name, trace.name_rank = name, rank
    return trace


def _said(context: Context) -> tuple[Any, ...] | Context:
    """Its fields; the context itself if not all texts are plain ones."""
    tags, metadata = context.tags, dict(context.metadata) if context.metadata else None
    if tags and not _TEXT.issuperset(map(type, tags)):
        return context
    if metadata is not None and not _TEXT.issuperset(map(type, (*metadata, *metadata.values()))):
        return context
    said = (
        context.user,
        context.session,
        tags,
        metadata,
        context.trace_name,
        context.workflow,
        context.conversation,
        context.release,
        context.version,
        context.environment,
    )
    return said if _EXACT.issuperset(map(type, said)) else context


def _context(said: tuple[Any, ...] | None) -> Context | None:
    if said is None:
        return None
    user, session, tags, metadata, *others = said
    return Context(user, session, tags, metadata or {}, *others)
