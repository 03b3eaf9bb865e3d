"""The pipeline: one owner for the state of all open traces, and the order of the steps.

Every buffer is bounded: traces by number of nodes and by idle time, waiting calls by number and time, content by bytes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from otel_langfuse import dialects
from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.dialects.merge import merge
from otel_langfuse.model import Facts, LogView, ObservationType, SpanView
from otel_langfuse.pipeline import context as contexts
from otel_langfuse.pipeline.calls import Calls
from otel_langfuse.pipeline.context import Context
from otel_langfuse.pipeline.join import Joiner
from otel_langfuse.pipeline.policy import Policy
from otel_langfuse.pipeline.root import Lifted, entry_name
from otel_langfuse.pipeline.row import Row
from otel_langfuse.pipeline.rules import apply_rules
from otel_langfuse.pipeline.tree import Node, SpanStart, Trace, kept_parent
from otel_langfuse.settings import Settings

__all__ = ["Options", "Pipeline"]

logger = logging.getLogger(__name__)

_MAX_OWED = 10_000


@dataclass(frozen=True, slots=True)
class Options:
    """What a pipeline needs to know of the settings.

    Attributes:
        environment, release, version: Values for spans that say nothing themselves.
        sample_rate: Share of traces to keep, decided by trace id.
        capture_content: Whether input, output and tool definitions go out at all.
        keep, drop: Globs on scope or span name.
        join_timeout: Seconds that a model call waits for its outer span.
        linger: Seconds that a finished trace is remembered for late spans.
        max_open: Seconds after which an open span counts as never ending.
        max_nodes: Spans remembered over all traces.
        trace_link: Template with ``{trace_id}`` of the way back from Langfuse.
        attribute_map: The user's rules, see `rules.apply_rules`.
    """

    environment: str | None = None
    release: str | None = None
    version: str | None = None
    sample_rate: float = 1.0
    capture_content: bool = True
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    join_timeout: float = 10.0
    linger: float = 30.0
    max_open: float = 3600.0
    max_nodes: int = 200_000
    trace_link: str | None = None
    attribute_map: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """The options that the settings ask for."""
        return cls(
            environment=settings.environment,
            release=settings.release,
            version=settings.version,
            sample_rate=settings.sample_rate,
            capture_content=settings.capture_content,
            keep=settings.keep,
            drop=settings.drop,
            join_timeout=settings.join_timeout,
            trace_link=settings.trace_link,
            attribute_map=settings.attribute_map,
        )


class Pipeline:
    """Turns spans into rows. Not thread-safe: one thread owns it.

    Args:
        sink: Gets each row, once.
        options: See `Options`.
        counters: Where counts go.
        should_export: The user's filter, see `Policy`.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        sink: Callable[[Row], None],
        options: Options = Options(),
        *,
        counters: Counters | None = None,
        should_export: Callable[[SpanView], bool | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._options = options
        self._counters = counters if counters is not None else Counters()
        self._clock = clock
        self._may_log = OncePerInterval(60.0, clock)
        self._policy = Policy(options.keep, options.drop, should_export, self._report)
        self._joiner = Joiner(self._counters)
        # Traces with open spans and without, each in order of last activity.
        self._open: OrderedDict[bytes, Trace] = OrderedDict()
        self._idle: OrderedDict[bytes, Trace] = OrderedDict()
        # Spans that a placeholder stands for, whose trace is forgotten: when they end at last, they replace it.
        self._owed: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()
        self._nodes = 0
        self._open_scopes: Counter[str] = Counter()
        self._calls = Calls(self._emit, self._generation_above, lambda: self._open_scopes, self._share, options.join_timeout)
        self._ceiling = int(options.sample_rate * 2**64)

    # --------------------------------------------------------------------------------------- arrivals

    def started(self, start: SpanStart) -> None:
        """Notes a span that has started."""
        if not self._sampled(start.trace_id):
            return
        trace = self._trace(start.trace_id)
        if start.span_id in trace.nodes:
            return
        node = self._add(trace, start.span_id, start.parent_id, start.start_ns)
        node.start = start
        self._open_scopes[start.scope] += 1

    def content(self, record: LogView) -> None:
        """Notes content for a span that has not ended yet."""
        if self._options.capture_content and self._sampled(record.trace_id):
            self._joiner.add(record)

    def ended(self, view: SpanView) -> None:
        """Takes an ended span; rows that are due go to the sink."""
        if not self._sampled(view.trace_id):
            self._counters.count("not_sampled")
            return
        self._counters.count("spans_in")
        trace = self._trace(view.trace_id)
        node = trace.nodes.get(view.span_id) or self._add(trace, view.span_id, view.parent_id, view.start_ns)
        if node.open:
            trace.open -= 1
            self._close(node)
            self._settle(node, self._complete(node, view))
        else:
            self._counters.count("repeated_span")
        if not trace.open:
            self._idle[trace.trace_id] = self._open.pop(trace.trace_id)

    def _close(self, node: Node) -> None:
        node.open = False
        if node.start is not None:
            left = self._open_scopes[node.start.scope] - 1
            if left > 0:
                self._open_scopes[node.start.scope] = left
            else:
                del self._open_scopes[node.start.scope]

    def _complete(self, node: Node, view: SpanView) -> SpanView:
        """The span with joined content and with the start attributes that the SDK dropped since."""
        view = self._joiner.attach(view)
        if node.start is not None and node.start.attributes:
            lost = {key: value for key, value in node.start.attributes.items() if key not in view.attributes}
            if lost:
                view = replace(view, attributes={**lost, **view.attributes})
        return view

    def _settle(self, node: Node, view: SpanView) -> None:
        facts = self._read(view)
        if facts.donates and node.parent is not None:
            node.parent.donated = facts
        if node.donated is not None:
            consumed = facts.consumed
            given, node.donated = replace(node.donated, noise=False, donates=False), None
            facts = merge([facts, given])
            facts.consumed = consumed
        keep = self._policy.keeps(view, facts)
        self._recognise(node, view, facts, keep)
        if keep and facts.type is not None and facts.type.is_model_call:
            self._calls.settle(node, view, facts, self._clock())
        elif keep or node.promised:
            self._emit(node, view, facts, {})
        elif node.is_entry:
            node.pending = (view, facts)
        else:
            self._counters.count("left_out")

    # ----------------------------------------------------------------------------------------- reading

    def _read(self, view: SpanView) -> Facts:
        facts = dialects.read(view)
        if self._options.attribute_map:
            apply_rules(self._options.attribute_map, view, facts)
        if not self._options.capture_content:
            facts.input = facts.output = facts.system = facts.tools = None
        return facts

    def _recognise(self, node: Node, view: SpanView, facts: Facts, keep: bool) -> None:
        node.scope = view.scope_name
        node.own = contexts.of_facts(facts)
        if keep:
            node.kept = True
            node.type = facts.type or ObservationType.SPAN

    def _look(self, node: Node) -> bool:
        """Reads an open span as far as it is; whether it is known to be kept."""
        start = node.start
        if not node.open or start is None or start.live is None:
            return node.kept
        try:
            view = start.live.look()
        except Exception as error:  # noqa: BLE001  # the span is the application's; reading it must not stop others
            self._report(f"an open span could not be read: {type(error).__name__}")
            view = None
        if view is not None:
            facts = self._read(view)
            self._recognise(node, view, facts, self._policy.keeps(view, facts))
        return node.kept

    def _generation_above(self, node: Node) -> Node | None:
        for ancestor in node.ancestors():
            if ancestor.type is None:
                self._look(ancestor)
            if ancestor.type is not None and ancestor.type.is_model_call:
                return ancestor
        return None

    # ----------------------------------------------------------------------------------------- writing

    def _emit(self, node: Node, view: SpanView, facts: Facts, note: dict[str, str]) -> None:
        """Writes one span as a row, once."""
        if node.written:
            return
        node.written = node.kept = True
        if facts.started_ns is not None:
            view = replace(view, start_ns=facts.started_ns)
        node.type = facts.type or node.type
        facts = self._own_usage(node, facts)
        parent = kept_parent(node, self._look)
        if parent is not None:
            parent.promised = True
        if facts.type is ObservationType.GENERATION and not node.is_entry:
            self._lift(node, view, facts)
        self._sink(self._row(node, parent, view, facts, note))
        self._counters.count("rows_out")
        self._mark_usage(node, facts)
        self._write_pending(node)

    def _write_pending(self, node: Node) -> None:
        """Writes entry spans that ended before a GenAI span below needed them."""
        for entry in {node.entry, node.trace.root}:
            if entry is not None and entry.pending is not None and entry.promised:
                view, facts = entry.pending
                entry.pending = None
                self._emit(entry, view, facts, {})

    def _lift(self, node: Node, view: SpanView, facts: Facts) -> None:
        for entry in {node.entry, node.trace.root or node.entry}:
            entry.lifted = entry.lifted or Lifted()
            entry.lifted.offer(view, facts)

    def _own_usage(self, node: Node, facts: Facts) -> Facts:
        """Agents and chains that repeat their children carry no usage; nor a model, which Langfuse would bill."""
        if facts.type is None or facts.type.is_model_call or facts.dialect == "langfuse":
            return facts
        if facts.usage is not None and not node.usage_below:
            return facts
        if facts.usage is None and facts.model is None:
            return facts
        metadata = dict(facts.metadata)
        if facts.model:
            metadata.setdefault("model", facts.model)
        return replace(facts, usage=None, cost=None, request_model=None, response_model=None, metadata=metadata)

    def _mark_usage(self, node: Node, facts: Facts) -> None:
        if facts.usage is None:
            return
        for ancestor in node.ancestors():
            if ancestor.usage_below:
                return
            ancestor.usage_below = True

    def _row(self, node: Node, parent: Node | None, view: SpanView, facts: Facts, note: dict[str, str]) -> Row:
        found = self._context(node, view)
        is_root = parent is None
        name = self._trace_name(node, view, found)
        metadata = dict(found.metadata)
        if is_root and self._options.trace_link:
            metadata["trace_link"] = self._options.trace_link.replace("{trace_id}", view.trace_id.hex())
        lifted = node.lifted if node.is_entry else None
        return Row(
            view=view,
            facts=facts,
            parent_id=parent.span_id if parent is not None else b"",
            is_root=is_root,
            name=name if is_root and name else facts.name or view.name,
            trace_name=name,
            user=found.user,
            session=found.session or found.conversation,
            tags=found.tags,
            trace_metadata=metadata,
            release=found.release,
            version=found.version,
            environment=contexts.normalise_environment(found.environment) if found.environment else None,
            lifted_input=lifted.input if lifted is not None else None,
            lifted_output=lifted.output if lifted is not None else None,
            note=note,
        )

    # ----------------------------------------------------------------------------------------- context

    def _context(self, node: Node, view: SpanView) -> Context:
        """What holds for a span when it is written; what it says itself is noted on the entry."""
        layers: list[Context | None] = [node.propagated, node.own]
        for ancestor in node.ancestors():
            if self._look(ancestor) or ancestor.promised or ancestor.is_entry:
                layers += (ancestor.propagated, ancestor.own)
        if node.is_entry:
            layers.append(node.found)
        elif node.own is not None or node.propagated is not None:
            entry = node.entry
            below = contexts.combine((entry.found, node.propagated, node.own))
            entry.found = replace(below, release=None, version=None, environment=None)
        options = self._options
        layers.append(Context(release=options.release, version=options.version, environment=options.environment))
        layers.append(contexts.of_resource(view.resource))
        found = contexts.combine(layers)
        if found.environment and contexts.normalise_environment(found.environment) != found.environment:
            self._report_environment(found.environment)
        return found

    def _share(self, survivor: Node, other: Node) -> None:
        """Gives a duplicate in a trace of its own the context of the call that it repeats."""
        layers: list[Context | None] = [other.entry.found, survivor.propagated, survivor.own]
        for ancestor in survivor.ancestors():
            layers += (ancestor.propagated, ancestor.own)
        found = contexts.combine((*layers, survivor.entry.found))
        other.entry.found = replace(found, trace_name=None, workflow=None, release=None, version=None, environment=None)

    def _trace_name(self, node: Node, view: SpanView, found: Context) -> str | None:
        """The strongest name known so far: given, then the workflow's, then the entry span's."""
        trace = node.trace
        for rank, name in ((3, found.trace_name), (2, found.workflow)):
            if name and rank > trace.name_rank:
                trace.name, trace.name_rank = name, rank
        if trace.name_rank < 2:
            entry = trace.root or node.entry
            shown = view if entry is node else self._view_of(entry)
            if shown is not None:
                trace.name, trace.name_rank = entry_name(shown), 1
        return found.trace_name or trace.name

    def _view_of(self, entry: Node) -> SpanView | None:
        if entry.pending is not None:
            return entry.pending[0]
        start = entry.start
        try:
            return start.live.peek() if entry.open and start is not None and start.live is not None else None
        except Exception:  # noqa: BLE001  # the span is the application's
            return None

    # -------------------------------------------------------------------------------------- upkeep

    def note_sdk_limits(self, dropped: int, cut: int) -> None:
        """Counts what the SDK's attribute limits took from a span before it came here."""
        self._counters.count("attributes_dropped_by_sdk", dropped)
        self._counters.count("attributes_cut_by_sdk", cut)
        if dropped:
            self._report("the SDK dropped attributes of a span, the oldest first; raise OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT (128)")
        if cut:
            self._report("the SDK cut attributes at OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT; raise it, or leave it unset")

    def tick(self) -> None:
        """Ends waits that are over and forgets traces that are done; call about once a second."""
        now = self._clock()
        self._calls.release(now)
        for traces, patience in ((self._idle, self._options.linger), (self._open, self._options.max_open)):
            while traces:
                trace = next(iter(traces.values()))
                if now - trace.last_seen <= patience and self._nodes <= self._options.max_nodes:
                    break
                self._forget(trace)

    def flush(self) -> None:
        """Ends all waits now."""
        self._calls.release()

    def close(self) -> None:
        """Ends all waits and writes placeholders for promised spans that are still open."""
        self.flush()
        for trace in (*self._idle.values(), *self._open.values()):
            self._forget(trace)

    def _forget(self, trace: Trace) -> None:
        """Lets go of a trace; promised spans that never ended get a placeholder row."""
        self._calls.release_trace(trace.trace_id)
        # A placeholder promises its own parent, which may be open too: children first, until nothing is owed.
        while owed := [node for node in reversed(trace.nodes.values()) if node.open and node.promised]:
            for node in owed:
                self._placeholder(node)
        self._counters.count("left_out", sum(node.pending is not None for node in trace.entries))
        self._joiner.forget_trace(trace.trace_id, trace.nodes)
        for node in trace.nodes.values():
            if node.open:
                self._close(node)
        self._open.pop(trace.trace_id, None)
        self._idle.pop(trace.trace_id, None)
        self._nodes -= len(trace.nodes)

    def _placeholder(self, node: Node) -> None:
        """A row for a span that others stand below: same id and start, marked incomplete; the real one replaces it."""
        view = self._view_of(node)
        self._close(node)
        if view is None:
            return
        self._counters.count("placeholders")
        self._owed[view.trace_id, view.span_id] = None
        if len(self._owed) > _MAX_OWED:
            self._owed.popitem(last=False)
        facts = self._read(view)
        end_ns = view.end_ns or max(view.start_ns, time.time_ns())
        self._emit(node, replace(view, end_ns=end_ns), facts, {"incomplete": "true"})

    @property
    def remembered(self) -> int:
        """Number of spans of which something is remembered."""
        return self._nodes

    def _trace(self, trace_id: bytes) -> Trace:
        trace = self._open.get(trace_id)
        if trace is not None:
            self._open.move_to_end(trace_id)
        else:
            trace = self._idle.pop(trace_id) if trace_id in self._idle else Trace(trace_id)
            self._open[trace_id] = trace
        trace.last_seen = self._clock()
        return trace

    def _add(self, trace: Trace, span_id: bytes, parent_id: bytes, start_ns: int) -> Node:
        self._nodes += 1
        node = trace.add(span_id, parent_id, start_ns)
        if self._owed and (trace.trace_id, span_id) in self._owed:
            del self._owed[trace.trace_id, span_id]
            node.promised = True
        return node

    def _sampled(self, trace_id: bytes) -> bool:
        return self._options.sample_rate >= 1.0 or int.from_bytes(trace_id[8:], "big") < self._ceiling

    def _report(self, text: str) -> None:
        if self._may_log(text):
            logger.warning("otel-langfuse: %s", text)

    def _report_environment(self, given: str) -> None:
        if self._may_log("environment"):
            shown = contexts.normalise_environment(given)
            logger.warning(
                "otel-langfuse: Langfuse shows environment %r as %r; it allows 40 lower-case letters, digits, - and _",
                given[:60],
                shown,
            )
