"""Spans as entries of the engine's queue, and what the worker does with them.

The application's thread makes no more than a tuple. A span is read when the worker gets to it: nothing changes it any
more once it has ended. What is only known at its start goes along: its context, which is immutable, and its start attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

from opentelemetry.sdk.trace import ReadableSpan

from otel_langfuse.model import SpanView
from otel_langfuse.pipeline import Pipeline, SpanStart
from otel_langfuse.pipeline.context import Context
from otel_langfuse.sdk.context import Propagated, propagated
from otel_langfuse.sdk.links import TraceLinks
from otel_langfuse.sdk.live import LiveSpan, cut_at_limit, weight
from otel_langfuse.sdk.queue import Entry, Views
from otel_langfuse.views.fields import head, read
from otel_langfuse.views.sdk import view_of

if TYPE_CHECKING:
    from otel_langfuse.sdk.fanout import Fanout

__all__ = ["Ended", "Passed", "Started"]

# Places in a span's context: the properties of this tuple are Python functions.
_TRACE_ID, _SPAN_ID, _FLAGS, _IS_VALID = 0, 1, 3, 5
_BODY, _DROPPED = 9, 1  # places in what was read of a span, and in its body
_SAMPLED = 1  # in the trace flags of W3C
_Cut: TypeAlias = "tuple[SpanView, int, int]"  # with how many attributes the SDK dropped, and how many it cut
_START_BYTES = 512  # a start holds little beside the span, which the application holds anyway


class Started:
    """A span's start: ``(kind, span, context, attributes)``.

    Args:
        baggage: Whether W3C baggage counts as propagated context.
        links: Kept within their bound.
    """

    __slots__ = ("_baggage", "_links")
    spans: ClassVar[int] = 0

    def __init__(self, baggage: bool, links: TraceLinks | None) -> None:
        self._baggage = baggage
        self._links = links

    def weigh(self, _: Entry) -> int:
        """The same for all."""
        return _START_BYTES

    def lose(self, _: Entry) -> int:
        """None: its end is to come."""
        if self._links is not None:
            self._links.make_room()
        return 0

    def prepare(self, entry: Entry, ended: Views) -> SpanStart | None:
        """What is known of a span that is sampled."""
        _, span, around, given = entry
        if self._links is not None:
            self._links.make_room()
        found: tuple[Any, ...] = head(span)
        context, parent, start_ns, scope = found
        if context is None or not context[_FLAGS] & _SAMPLED:
            return None
        inherited = propagated(around, baggage=self._baggage)
        return SpanStart(  # by position: keywords take as long as the rest
            context[_TRACE_ID].to_bytes(16, "big"),
            context[_SPAN_ID].to_bytes(8, "big"),
            parent[_SPAN_ID].to_bytes(8, "big") if parent is not None and parent[_IS_VALID] else b"",
            start_ns or 0,
            (scope.name or "") if scope is not None else "",
            LiveSpan(span, ended, given),
            _context(inherited) if inherited is not None else None,
        )

    def handle(self, prepared: SpanStart, pipeline: Pipeline) -> None:
        """Tells the pipeline."""
        pipeline.started(prepared)


class Ended:
    """A span's end: ``(kind, span)``.

    Args:
        links: Forgets the traces whose entry span has ended.
        fanout: Gets every sampled span as well.
    """

    __slots__ = ("_fanout", "_links")
    spans: ClassVar[int] = 1

    def __init__(self, links: TraceLinks | None, fanout: Fanout | None = None) -> None:
        self._links = links
        self._fanout = fanout

    def weigh(self, entry: Entry) -> int:
        """By its texts."""
        return weight(entry[1])

    def lose(self, entry: Entry) -> int:
        """The span, if it is sampled."""
        lost = int(self._over(entry[1].context))
        if self._fanout is not None:
            self._fanout.lose(lost)
        return lost

    def _over(self, context: Any) -> bool:
        """Forgets that a span was open; whether it is sampled."""
        if context is None:
            return False
        if self._links is not None:
            self._links.ended(context)
        return bool(context[_FLAGS] & _SAMPLED)

    def prepare(self, entry: Entry, ended: Views) -> SpanView | _Cut | None:
        """The view of a span that is sampled; the other copy is made now."""
        context = entry[1].context
        if not self._over(context):
            return None
        try:
            found: Any = read(entry[1])
        except BaseException as error:
            if self._fanout is not None:
                self._fanout.failed(error)  # both copies lose it
            raise
        if self._fanout is not None:
            self._fanout.take(found)
        view = view_of(found)
        if view is None:
            return None
        ended[context[:2]] = view
        dropped, cut = found[_BODY][_DROPPED], cut_at_limit(view.attributes)
        return (view, dropped, cut) if dropped or cut else view

    def handle(self, prepared: SpanView | _Cut, pipeline: Pipeline) -> None:
        """Gives it to the pipeline."""
        if type(prepared) is tuple:
            view, dropped, cut = prepared
            pipeline.ended(view)
            pipeline.note_sdk_limits(dropped, cut)
        else:
            pipeline.ended(cast("SpanView", prepared))


class Passed:
    """The end of a span that somebody else sends to Langfuse, or nobody: ``(kind, span)``. It goes to OTLP only."""

    __slots__ = ("_fanout",)
    spans: ClassVar[int] = 0

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout

    def weigh(self, entry: Entry) -> int:
        """By its texts."""
        return weight(entry[1])

    def lose(self, entry: Entry) -> int:
        """One span of this copy, if it is sampled; none of Langfuse's."""
        self._fanout.lose(int(_sampled(entry[1])))
        return 0

    def prepare(self, entry: Entry, _: object) -> None:
        """Encodes a span that is sampled."""
        if _sampled(entry[1]):
            try:
                found = read(entry[1])
            except BaseException as error:  # noqa: BLE001  # it is not among those of the other copy
                self._fanout.failed(error)
            else:
                self._fanout.take(found)

    def handle(self, prepared: Any, pipeline: Pipeline) -> None:
        """There is nothing left to do."""


def _sampled(span: ReadableSpan) -> bool:
    context = span.context
    return context is not None and bool(context[_FLAGS] & _SAMPLED)


def _context(found: Propagated) -> Context:
    return Context(
        user=found.user_id,
        session=found.session_id,
        tags=tuple(found.tags),
        metadata=found.metadata,
        trace_name=found.trace_name,
        release=found.release,
        version=found.version,
        environment=found.environment,
    )
