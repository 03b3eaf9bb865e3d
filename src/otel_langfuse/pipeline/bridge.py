"""The pipeline: the order of the steps, from a span's start to its row.

Every buffer is bounded: traces by number of spans and by idle time, waiting calls by number and time, content by bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.dialects.merge import merge
from otel_langfuse.model import Facts, LogView, ObservationType, SpanView
from otel_langfuse.pipeline.calls import DESCRIBING, Calls
from otel_langfuse.pipeline.enrich import Enricher
from otel_langfuse.pipeline.join import Joiner
from otel_langfuse.pipeline.options import DEFAULT, Options
from otel_langfuse.pipeline.packing import Packed
from otel_langfuse.pipeline.policy import Policy
from otel_langfuse.pipeline.recognise import Recogniser
from otel_langfuse.pipeline.row import NO_NOTE, Row
from otel_langfuse.pipeline.traces import Traces
from otel_langfuse.pipeline.tree import Live, Node, SpanStart, Trace, kept_parent

__all__ = ["Pipeline"]

logger = logging.getLogger(__name__)


class Pipeline:
    """Turns spans into rows. Not thread-safe: one thread owns it.

    Args:
        sink: Gets each row, once.
        options: See `Options`.
        counters: Where counts go.
        should_export: The user's filter, see `Policy`.
        clock: Monotonic seconds.
        on_left_out: Told of each ended span that gets no row, once that is certain. Every span given to ``ended`` comes
            out once, as a row or here.
    """

    def __init__(
        self,
        sink: Callable[[Row], None],
        options: Options = DEFAULT,
        *,
        counters: Counters | None = None,
        should_export: Callable[[SpanView], bool | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_left_out: Callable[[SpanView], None] | None = None,
    ) -> None:
        self._sink = sink
        self._on_left_out = on_left_out
        self._options = options
        self._keeps_all = options.sample_rate >= 1.0
        self._counters = counters if counters is not None else Counters()
        self._clock = clock
        # Spans that came, rows that were written, and those of them below another parent: since they were last passed on.
        self._came = self._written = self._moved = 0
        self._may_log = OncePerInterval(60.0, clock)
        self._joiner = Joiner(self._counters, options.max_open)
        policy = Policy(options.keep, options.drop, should_export, self._report)
        self._recogniser = Recogniser(options, policy, self._report)
        read = self._recogniser.read
        self._traces = Traces(options.linger, options.max_open, options.max_nodes, options.max_ids, DESCRIBING, read)
        self._enricher = Enricher(options, self._recogniser.look, self._may_log)
        self._calls = Calls(
            self._emit,
            self._recogniser.generation_above,
            lambda: self._traces.open_scopes,
            self._enricher.share,
            self._foretell,
            options.join_timeout,
        )

    # --------------------------------------------------------------------------------------- arrivals

    def started(self, start: SpanStart) -> None:
        """Notes a span that has started."""
        if not (self._keeps_all or self._options.samples(start.trace_id)):
            return
        trace = self._traces.of(start.trace_id, self._clock())
        node = trace.nodes.get(start.span_id)
        if node is None:
            self._traces.add(trace, start.span_id, start.parent_id, start.start_ns, start)
        elif node.expected:
            self._traces.arrive(node, start.parent_id, start.start_ns, start)

    def expect(self, trace_id: bytes, span_id: bytes, start_ns: int) -> None:
        """Promises a parent that has not been seen: rows may stand below it, and it is kept when it comes.

        Args:
            trace_id: Its trace.
            span_id: Its id.
            start_ns: When it started at the latest.
        """
        if self._options.samples(trace_id):
            trace = self._traces.of(trace_id, self._clock())
            if span_id not in trace.nodes:
                self._traces.expect(trace, span_id, start_ns)
                self._counters.count("expected_parents")

    def knows(self, trace_id: bytes, span_id: bytes) -> bool:
        """Whether a span has been seen, and is remembered."""
        return self._traces.is_known(trace_id, span_id)

    def owe(self, trace_id: bytes, span_id: bytes) -> None:
        """An earlier process has promised this span: it is kept when it comes."""
        self._traces.owe(trace_id, span_id)

    def has_content_for(self, trace_id: bytes, span_id: bytes) -> bool:
        """Whether content is held for a span that has not ended yet."""
        return self._joiner.holds(trace_id, span_id)

    def content(self, record: LogView) -> None:
        """Notes content for a span that has not ended yet."""
        if record.has_content and self._options.capture_content and self._options.samples(record.trace_id):
            self._joiner.add(record, self._clock())

    def read_ahead(self, views: Collection[SpanView]) -> None:
        """Reads spans that will be given to `ended`: one after the other takes less than each in its turn.

        Not while content waits that may belong to one of them, nor where not every trace is kept. Those that are read belong
        to one moment: an open span is looked at once for all of them.
        """
        self._recogniser.advance()
        if self._keeps_all and not self._joiner.held:
            self._recogniser.read_ahead(views)

    def ended(self, view: SpanView) -> None:
        """Takes an ended span; rows that are due go to the sink."""
        if not (self._keeps_all or self._options.samples(view.trace_id)):
            self._counters.count("not_sampled")
            self._leave_out(view)
            return
        self._came += 1
        if view.facts is None:  # it was not read ahead
            self._recogniser.advance()
        if self._options.max_ids and self._traces.was_written(view.trace_id, view.span_id):
            self._counters.count("repeated_span")
            self._leave_out(view)
            return
        trace = self._traces.of(view.trace_id, self._clock())
        node = trace.nodes.get(view.span_id) or self._traces.add(trace, view.span_id, view.parent_id, view.start_ns)
        if node.expected:
            self._traces.arrive(node, view.parent_id, view.start_ns)
        try:
            if node.open:
                live = node.live
                self._traces.close(node)
                self._settle(node, self._complete(live, view))
            else:
                self._counters.count("repeated_span")
                self._leave_out(view)
        finally:
            self._traces.rest(trace)

    def note_sdk_limits(self, dropped: int, cut: int) -> None:
        """Counts what the SDK's attribute limits took from a span before it came here."""
        self._counters.count("attributes_dropped_by_sdk", dropped)
        self._counters.count("attributes_cut_by_sdk", cut)
        if dropped:
            self._report("the SDK dropped attributes of a span, the oldest first; raise OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT (128)")
        if cut:
            self._report("the SDK cut attributes at OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT; raise it, or leave it unset")

    # -------------------------------------------------------------------------------------- upkeep

    def tick(self) -> None:
        """Ends waits that are over and forgets traces that are done; call about once a second."""
        now = self._clock()
        self._recogniser.advance()
        self._calls.release(now)
        self._joiner.expire(now)
        self._forget_all(self._traces.stale(now))
        self._count_up()

    def flush(self) -> None:
        """Ends all waits now."""
        self._recogniser.advance()
        self._calls.release()
        self._count_up()

    def close(self) -> None:
        """Ends all waits and writes placeholders for promised spans that are still open."""
        self.flush()
        self._forget_all(self._traces.all())
        self._count_up()

    def pause(self) -> None:
        """Packs what is finished and passes counts on: between two handfuls of spans, not from within a call of a filter."""
        self._traces.pack()
        self._count_up()

    def _count_up(self) -> None:
        """Passes on what is counted for each span."""
        counts = (("spans_in", self._came), ("rows_out", self._written), ("reparented", self._moved))
        self._came = self._written = self._moved = 0
        for name, number in counts:
            self._counters.count(name, number)

    @property
    def remembered(self) -> int:
        """Number of spans of which something is remembered."""
        return self._traces.nodes

    # ------------------------------------------------------------------------------------- decisions

    def _complete(self, live: Live | None, view: SpanView) -> SpanView:
        """The span with joined content and with the start attributes that the SDK dropped since."""
        view = self._joiner.attach(view)
        if live is not None and (dropped := live.dropped(view.attributes)):
            view = replace(view, attributes={**dropped, **view.attributes})
        return view

    def _settle(self, node: Node, view: SpanView) -> None:
        facts = self._donations(node, self._recogniser.read(view))
        keep = self._recogniser.note(node, view, facts)
        if keep and facts.type is not None and facts.type.is_model_call:
            self._calls.settle(node, view, facts, self._clock())
        elif keep or node.promised:
            self._emit(node, view, facts, NO_NOTE)
        elif node.is_entry:
            node.pending = (view, facts)
        else:
            # It may have looked like one to keep while it was open; from now on rows go to the next one above.
            node.kept, node.type = False, None
            self._counters.count("left_out")
            self._leave_out(view)

    def _donations(self, node: Node, facts: Facts) -> Facts:
        """Passes what a second span of the same call knows on to its parent, and takes what was passed on."""
        if facts.donates and node.parent is not None:
            node.parent.donated = facts
        if node.donated is None:
            return facts
        consumed = facts.consumed
        given, node.donated = replace(node.donated, noise=False, donates=False), None
        facts = merge([facts, given])
        facts.consumed = consumed
        return facts

    def _foretell(self, node: Node, view: SpanView, facts: Facts) -> None:
        """Ancestors that end while a call below them waits must not count its tokens again, nor miss its words."""
        self._enricher.mark_usage(node, facts)
        if facts.type is ObservationType.GENERATION and not node.is_entry:
            self._enricher.lift(node, view, facts)

    # ----------------------------------------------------------------------------------------- writing

    def _emit(self, node: Node, view: SpanView, facts: Facts, note: Mapping[str, str]) -> None:
        """Writes one span as a row, once."""
        if node.written:
            return
        node.written = node.kept = True
        if facts.started_ns is not None:
            view = replace(view, start_ns=facts.started_ns)
        node.type = facts.type or node.type
        facts = self._enricher.own_usage(node, facts)
        parent = kept_parent(node, self._recogniser.look)
        if parent is not None:
            parent.promised = True
        if facts.type is ObservationType.GENERATION and not node.is_entry:
            self._enricher.lift(node, view, facts)
        self._sink(self._enricher.row(node, parent, view, facts, note))
        node.lifted = None  # shown now; messages are large
        self._written += 1
        self._moved += (parent.span_id if parent is not None else b"") != view.parent_id
        if note:
            self._counters.count("merged_calls", not note.keys().isdisjoint(("duplicate_of", "repeats_calls")))
        self._enricher.mark_usage(node, facts)
        self._write_pending(node)

    def _write_pending(self, node: Node) -> None:
        """Writes entry spans that ended before a GenAI span below needed them."""
        for entry in (node.entry, node.trace.root):
            if entry is not None and entry.pending is not None and entry.promised:
                view, facts = entry.pending
                entry.pending = None
                self._emit(entry, view, facts, NO_NOTE)

    def _forget_all(self, traces: Iterable[tuple[bytes, Trace | Packed]]) -> None:
        """Lets go of traces; packed ones as they are, if nobody has to be told of their spans."""
        unasked = self._on_left_out is None and not self._joiner.held and not self._options.max_ids
        left_out = 0
        try:
            for trace_id, known in traces:
                if unasked and not isinstance(known, Trace):
                    left_out += self._traces.drop(trace_id)
                else:
                    self._forget(self._traces.whole(trace_id, known))
        finally:  # a span that cannot be read ends this, until the next time
            self._counters.count("left_out", left_out)

    def _forget(self, trace: Trace) -> None:
        """Lets go of a trace; promised spans that never ended get a placeholder row."""
        self._calls.release_trace(trace.trace_id)
        # A placeholder promises its own parent, which may be open too: children first, until nothing is owed.
        while owed := [node for node in reversed(trace.nodes.values()) if node.open and node.promised]:
            for node in owed:
                self._placeholder(node)
        for node in trace.nodes.values():
            if node.pending is not None:
                self._counters.count("left_out")
                self._leave_out(node.pending[0])
                node.pending = None
        self._joiner.forget_trace(trace.trace_id, trace.nodes)
        self._traces.forget(trace)

    def _placeholder(self, node: Node) -> None:
        """A row for a span that others stand below: same id and start, marked incomplete; the real one replaces it.

        A span that never came gets none: its start is not known, and with another start the real one would not replace it.
        """
        view = self._recogniser.peek(node)
        self._traces.close(node)
        if view is None:
            if node.expected:
                self._counters.count("parents_never_came")
                self._traces.owe(node.trace.trace_id, node.span_id)
            return
        self._counters.count("placeholders")
        self._traces.owe(view.trace_id, view.span_id)
        end_ns = view.end_ns or max(view.start_ns, time.time_ns())
        self._emit(node, replace(view, end_ns=end_ns), self._recogniser.read(view), {"incomplete": "true"})

    def _leave_out(self, view: SpanView) -> None:
        if self._on_left_out is not None:
            self._on_left_out(view)

    def _report(self, text: str) -> None:
        if self._may_log(text):
            logger.warning("otel-langfuse: %s", text)
