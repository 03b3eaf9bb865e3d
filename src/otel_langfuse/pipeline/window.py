"""The trace window: what has come of a trace waits here until it can be placed, then goes through the pipeline.

In the sidecar spans come in requests of their own, children before parents, content in requests of its own. Rules:

- A tree of waiting spans is *ready* when the parent of its topmost span has been seen or there is none, and none of its
  spans misses content that its scope is known to send in log records. A trace is written when nothing has come for it
  for ``settle`` seconds, as far as its trees are ready.
- No span waits longer than ``window`` seconds. What is written then is *placed early*: a parent that is remote counts as
  absent; one of the same process is still open, most likely, and is promised instead.
- Pressure (bytes) and ``flush`` end waits likewise. ``close`` ends them for good: every unseen parent counts as absent.

What is written together is replayed as a complete set, so that with everything in time the result is that of
``replay``. Data and state only: no threads, and the clock is given.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from otel_langfuse import dialects
from otel_langfuse.counters import Counters
from otel_langfuse.model import LogView, SpanView
from otel_langfuse.pipeline.bridge import Pipeline
from otel_langfuse.pipeline.replay import replay

__all__ = ["CONTENT_SCOPES", "Window"]

CONTENT_SCOPES = (
    "opentelemetry.instrumentation.openai_v2",
    "opentelemetry.instrumentation.google_genai",
    "opentelemetry.instrumentation.genai.anthropic",
    "opentelemetry.instrumentation.genai.langchain",
    "opentelemetry.instrumentation.genai.openai",
    "opentelemetry.util.genai.handler",
    "@opentelemetry/instrumentation-openai",
)
"""Scopes that may send content as log records, before any has been seen to do so."""

_MAX_SCOPES = 256
_MAX_ELSEWHERE = 100_000
_SERVER, _CONSUMER = 2, 5  # span kinds whose parent is in another process, whatever the flags say


@dataclass(slots=True, eq=False)
class _Waiting:
    """A span that waits."""

    view: SpanView
    size: int
    since: float
    _lacks_content: bool | None = None

    @property
    def lacks_content(self) -> bool:
        """Whether it is a model call without input and output of its own."""
        if self._lacks_content is None:
            facts = dialects.read(self.view)
            is_call = facts.type is not None and facts.type.is_model_call
            self._lacks_content = is_call and facts.input is None and facts.output is None
        return self._lacks_content


@dataclass(slots=True, eq=False)
class _Held:
    """The waiting spans of one trace, by span id in order of arrival."""

    trace_id: bytes
    last: float
    spans: dict[bytes, _Waiting] = field(default_factory=dict)

    @property
    def oldest(self) -> float:
        """When the span that waits longest came."""
        return next(iter(self.spans.values())).since

    def trees(self) -> Iterator[list[_Waiting]]:
        """The waiting spans by topmost span, which is the first of each list."""
        top_of: dict[bytes, bytes] = {}
        trees: dict[bytes, list[_Waiting]] = {}
        for span_id, waiting in self.spans.items():
            trees.setdefault(self._top(span_id, top_of), []).append(waiting)
        for top, tree in trees.items():
            first = self.spans[top]
            yield [first, *(waiting for waiting in tree if waiting is not first)]

    def _top(self, span_id: bytes, known: dict[bytes, bytes]) -> bytes:
        path: dict[bytes, None] = {}
        top = span_id
        while top not in known and top not in path:
            path[top] = None
            above = self.spans[top].view.parent_id
            if above not in self.spans:
                break
            top = above
        top = known.get(top, top)
        known.update(dict.fromkeys(path, top))
        return top


class Window:
    """Holds spans for a pipeline. Not thread-safe: the thread that owns the pipeline owns its window.

    Args:
        pipeline: Where spans and content go.
        window: Longest wait of a span in seconds.
        settle: Seconds without a new span after which a trace is looked at.
        limit: Bytes of spans that wait at most.
        counters: Takes ``placed_early`` (spans written before their parent was seen), ``early_without_content``,
            ``window_full`` (spans written for lack of room), ``spans_waited`` and ``late_content``.
        clock: Monotonic seconds.
        on_error: Told of a span that could not be mapped.
        on_repeated: Told of a span that came while an equal one waits.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        window: float,
        settle: float,
        limit: int,
        counters: Counters,
        clock: Callable[[], float],
        on_error: Callable[[SpanView, Exception], None],
        on_repeated: Callable[[SpanView], None],
    ) -> None:
        self._pipeline = pipeline
        self._window = window
        self._settle = settle
        self._limit = limit
        self._counters = counters
        self._clock = clock
        self._on_error = on_error
        self._on_repeated = on_repeated
        # Traces in order of their last arrival; those that were looked at and are not ready, in order of their oldest.
        self._arriving: OrderedDict[bytes, _Held] = OrderedDict()
        self._unready: OrderedDict[bytes, _Held] = OrderedDict()
        self._content_scopes: OrderedDict[str, None] = OrderedDict.fromkeys(CONTENT_SCOPES)
        # Spans that another pipeline gets, with their parents: what stands below them moves up.
        self._elsewhere: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
        self.bytes = 0
        self.spans = 0

    # --------------------------------------------------------------------------------------- arrivals

    def add(self, view: SpanView, size: int) -> None:
        """Takes a span that holds about ``size`` bytes."""
        now = self._clock()
        held = self._arriving.get(view.trace_id) or self._unready.pop(view.trace_id, None)
        if held is None:
            held = _Held(view.trace_id, now)
        self._arriving[view.trace_id] = held
        self._arriving.move_to_end(view.trace_id)
        held.last = now
        if view.span_id in held.spans:
            self._counters.count("repeated_span")
            self._on_repeated(view)
            return
        held.spans[view.span_id] = _Waiting(view, size, now)
        self.bytes += size
        self.spans += 1
        if self.bytes > self._limit:
            self._make_room()

    def elsewhere(self, view: SpanView) -> None:
        """Takes note of a span that goes to another project: here it is as if it were left out."""
        self._elsewhere[view.trace_id, view.span_id] = view.parent_id
        if len(self._elsewhere) > _MAX_ELSEWHERE:
            self._elsewhere.popitem(last=False)

    def content(self, record: LogView) -> None:
        """Takes a content record; its span waits, or is to come."""
        if not record.has_content:
            return
        if record.scope_name:
            self._note_scope(record.scope_name)
        held = self._arriving.get(record.trace_id) or self._unready.get(record.trace_id)
        waiting = held.spans.get(record.span_id) if held is not None else None
        if waiting is not None:
            self._note_scope(waiting.view.scope_name)
        elif record.span_id and self._pipeline.knows(record.trace_id, record.span_id):
            self._counters.count("late_content")
            return
        self._pipeline.content(record)
        if held is not None and record.trace_id in self._unready:
            self._arriving[record.trace_id] = self._unready.pop(record.trace_id)

    # ------------------------------------------------------------------------------------------ upkeep

    def tick(self) -> None:
        """Writes what is ready or has waited long enough; call several times a second."""
        now = self._clock()
        due: list[_Waiting] = []
        for held in self._overdue(now):
            due += self._take(held, lambda tree: self._is_ready(tree) or any(now - w.since >= self._window for w in tree))
        while self._arriving:
            held = next(iter(self._arriving.values()))
            if now - held.last < self._settle:
                break
            due += self._take(held, self._is_ready)
        self._write(due)
        self._pipeline.tick()

    def flush(self) -> None:
        """Ends all waits now."""
        self._write(self._take_all())

    def close(self, *, for_good: bool = True) -> None:
        """Ends all waits and closes the pipeline.

        Args:
            for_good: Nothing more of these traces is to come, here or in a next process that remembers promises.
        """
        self._write(self._take_all(), closing=for_good)
        self._pipeline.close()

    # ---------------------------------------------------------------------------------------- decisions

    def _overdue(self, now: float) -> list[_Held]:
        return [
            held for traces in (self._unready, self._arriving) for held in traces.values() if now - held.oldest >= self._window
        ]

    def _is_ready(self, tree: list[_Waiting]) -> bool:
        return self._is_rooted(tree[0].view) and not any(self._awaits_content(waiting) for waiting in tree)

    def _is_rooted(self, view: SpanView) -> bool:
        parent_id = self._parent_of(view)
        return not parent_id or self._pipeline.knows(view.trace_id, parent_id) or self._holds(view.trace_id, parent_id)

    def _holds(self, trace_id: bytes, span_id: bytes) -> bool:
        held = self._arriving.get(trace_id) or self._unready.get(trace_id)
        return held is not None and span_id in held.spans

    def _parent_of(self, view: SpanView) -> bytes:
        """The parent's id, past spans that are elsewhere."""
        parent_id = view.parent_id
        for _ in range(len(self._elsewhere)):
            above = self._elsewhere.get((view.trace_id, parent_id))
            if above is None:
                break
            parent_id = above
        return parent_id

    def _awaits_content(self, waiting: _Waiting) -> bool:
        view = waiting.view
        return (
            view.scope_name in self._content_scopes
            and not self._pipeline.has_content_for(view.trace_id, view.span_id)
            and waiting.lacks_content
        )

    def _note_scope(self, scope: str) -> None:
        self._content_scopes[scope] = None
        self._content_scopes.move_to_end(scope)
        if len(self._content_scopes) > _MAX_SCOPES:
            self._content_scopes.popitem(last=False)

    # ------------------------------------------------------------------------------------------ writing

    def _take(self, held: _Held, chosen: Callable[[list[_Waiting]], bool]) -> list[_Waiting]:
        """Takes the chosen trees out of a trace; what is left waits with the unready."""
        taken = [waiting for tree in held.trees() if chosen(tree) for waiting in tree]
        for waiting in taken:
            del held.spans[waiting.view.span_id]
            self.bytes -= waiting.size
        self.spans -= len(taken)
        self._arriving.pop(held.trace_id, None)
        self._unready.pop(held.trace_id, None)
        if held.spans:
            self._unready[held.trace_id] = held
        return taken

    def _take_all(self) -> list[_Waiting]:
        every = [*self._unready.values(), *self._arriving.values()]
        return [waiting for held in every for waiting in self._take(held, lambda _: True)]

    def _make_room(self) -> None:
        """Writes the traces that wait longest until a quarter of the room is free."""
        taken: list[_Waiting] = []
        while self.bytes > self._limit * 3 // 4 and (self._unready or self._arriving):
            held = next(iter((self._unready or self._arriving).values()))
            taken += self._take(held, lambda _: True)
        self._counters.count("window_full", len(taken))
        self._write(taken)

    def _write(self, spans: list[_Waiting], *, closing: bool = False) -> None:
        if not spans:
            return
        self._counters.count("spans_waited", len(spans))
        if self._elsewhere:
            for waiting in spans:
                parent_id = self._parent_of(waiting.view)
                if parent_id != waiting.view.parent_id:
                    waiting.view = replace(waiting.view, parent_id=parent_id)
        together = {(waiting.view.trace_id, waiting.view.span_id) for waiting in spans}
        for waiting in spans:
            self._note_what_is_missing(waiting, together, closing=closing)
        replay(self._pipeline, [waiting.view for waiting in spans], on_error=self._on_error)

    def _note_what_is_missing(self, waiting: _Waiting, together: Iterable[tuple[bytes, bytes]], *, closing: bool) -> None:
        view = waiting.view
        if view.parent_id and (view.trace_id, view.parent_id) not in together and not self._is_rooted(view):
            self._counters.count("placed_early")
            if not closing and not view.parent_remote and view.kind not in (_SERVER, _CONSUMER):
                self._pipeline.expect(view.trace_id, view.parent_id, view.start_ns)
        if self._awaits_content(waiting):
            self._counters.count("early_without_content")
            if not closing:
                # Content of this scope does not come, or is switched off: the next span need not wait for it.
                self._content_scopes.pop(view.scope_name, None)
