"""A complete set of spans through the pipeline, as if it had come live: the reference for "everything came in time".

Starts and ends are fed as a timeline. Times order siblings only: a parent in the set is always fed before its
children, whatever their clocks say, because parents are resolved by id first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from otel_langfuse.model import EMPTY, LogView, SpanView, Value
from otel_langfuse.pipeline.bridge import Pipeline
from otel_langfuse.pipeline.context import Context
from otel_langfuse.pipeline.tree import SpanStart

__all__ = ["replay"]

_HANDFUL = 64  # starts and ends that are read together


class _Whole:
    """A span that is complete from the first look on."""

    __slots__ = ("_seen", "_view")

    def __init__(self, view: SpanView) -> None:
        self._view = view
        self._seen = False

    def look(self) -> SpanView | None:
        """The span, once."""
        if self._seen:
            return None
        self._seen = True
        return self._view

    def peek(self) -> SpanView | None:
        """The span."""
        return self._view

    def dropped(self, kept: Mapping[str, Value]) -> Mapping[str, Value]:
        """None: it is complete."""
        return EMPTY


def replay(
    pipeline: Pipeline,
    views: Sequence[SpanView],
    records: Iterable[LogView] = (),
    propagated: Mapping[bytes, Context] | None = None,
    on_error: Callable[[SpanView, Exception], None] | None = None,
) -> None:
    """Feeds spans and their records, then ends all waits.

    Args:
        pipeline: Where to.
        views: Ended spans, in any order.
        records: Content records; each is fed before its span.
        propagated: By span id, what the application had put in context at the span's start.
        on_error: Called when a span could not be handled, which costs no other span; without it the error is raised.
    """
    for record in records:
        pipeline.content(record)
    known = {(view.trace_id, view.span_id): view for view in views}
    started: set[tuple[bytes, bytes]] = set()
    depth = _depths(known)
    timeline: list[tuple[int, int, int, int, SpanView]] = []
    for index, view in enumerate(views):
        level = depth[view.trace_id, view.span_id]
        timeline.append((view.start_ns, 0, level, index, view))
        timeline.append((max(view.end_ns, view.start_ns), 1, -level, index, view))
    timeline.sort(key=lambda item: item[:4])
    for at in range(0, len(timeline), _HANDFUL):
        handful = timeline[at : at + _HANDFUL]
        pipeline.read_ahead([view for _, is_end, _, _, view in handful if is_end])
        for _, is_end, _, _, view in handful:
            _start(pipeline, view, known, started, propagated or {})
            if is_end:
                try:
                    pipeline.ended(view)
                except Exception as error:
                    if on_error is None:
                        raise
                    on_error(view, error)
                view.facts = None  # all views are held to the end, what they say need not be
    pipeline.flush()


def _depths(known: Mapping[tuple[bytes, bytes], SpanView]) -> dict[tuple[bytes, bytes], int]:
    """How many spans stand above each; a circle ends where it was entered."""
    depths: dict[tuple[bytes, bytes], int] = {}
    for key in known:
        path: dict[tuple[bytes, bytes], None] = {}
        while key in known and key not in depths and key not in path:
            path[key] = None
            key = (key[0], known[key].parent_id)
        level = depths.get(key, -1)
        for below in reversed(path):
            level += 1
            depths[below] = level
    return depths


def _start(
    pipeline: Pipeline,
    view: SpanView,
    known: Mapping[tuple[bytes, bytes], SpanView],
    started: set[tuple[bytes, bytes]],
    propagated: Mapping[bytes, Context],
) -> None:
    """Starts the span and whatever stands above it, topmost first."""
    chain: list[SpanView] = []
    above: SpanView | None = view
    while above is not None and (above.trace_id, above.span_id) not in started:
        started.add((above.trace_id, above.span_id))
        chain.append(above)
        above = known.get((above.trace_id, above.parent_id))
    for item in reversed(chain):
        pipeline.started(
            SpanStart(
                item.trace_id,
                item.span_id,
                item.parent_id,
                item.start_ns,
                item.scope_name,
                _Whole(item),
                propagated.get(item.span_id),
            )
        )
