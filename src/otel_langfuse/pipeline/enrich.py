"""From a placed span to a row: name, context, lifted input and output, and whether its usage is its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from otel_langfuse.counters import OncePerInterval
from otel_langfuse.model import Facts, SpanView, Value
from otel_langfuse.pipeline import context as contexts
from otel_langfuse.pipeline.context import Context
from otel_langfuse.pipeline.options import Options
from otel_langfuse.pipeline.root import Lifted
from otel_langfuse.pipeline.row import Row
from otel_langfuse.pipeline.tree import Node

__all__ = ["Enricher"]

logger = logging.getLogger(__name__)

_MAX_HEIGHT = 64  # ancestors asked for context, besides the entry: a bound on the work per span in very deep traces
_MAX_FOUND = 100  # tags, and metadata keys, that an entry row takes from the spans below it
_GIVEN, _WORKFLOW, _ENTRY = 3, 2, 1  # how strong a trace's name is


class Enricher:
    """Adds to a span what its surroundings know.

    Args:
        options: See `Options`.
        look: Reads an open span as far as it is; whether it is known to be kept.
        may_log: Limits what is said about environments.
    """

    def __init__(self, options: Options, look: Callable[[Node], bool], may_log: OncePerInterval) -> None:
        self._options = options
        self._look = look
        self._may_log = may_log
        self._resource: Mapping[str, Value] = {}
        self._defaults = Context(release=options.release, version=options.version, environment=options.environment)
        self._base: Context | None = self._defaults if self._defaults != contexts.NOTHING else None

    def row(self, node: Node, parent: Node | None, view: SpanView, facts: Facts, note: Mapping[str, str]) -> Row:
        """The row of a span whose place is known; ``parent`` is ``None`` for the root."""
        found = self._context(node, view)
        is_root = parent is None
        name = self._trace_name(node, found)
        metadata = found.metadata
        if is_root and self._options.trace_link:
            metadata = {**metadata, "trace_link": self._options.trace_link.replace("{trace_id}", view.trace_id.hex())}
        lifted = node.lifted if node.is_entry else None
        return Row(  # by position: keywords take as long as the rest
            view,
            facts,
            parent.span_id if parent is not None else b"",
            is_root,
            name if is_root and name else facts.name or view.name,
            name,
            found.user,
            found.session or found.conversation,
            found.tags,
            metadata,
            found.release,
            found.version,
            self._environment(found.environment) if found.environment else None,
            lifted.input if lifted is not None else None,
            lifted.output if lifted is not None else None,
            note,
        )

    def lift(self, node: Node, view: SpanView, facts: Facts) -> None:
        """Offers a generation's question and answer to the entry spans above it."""
        own, root = node.entry, node.trace.root
        for entry in (own,) if root is None or root is own else (own, root):
            if entry.written:
                continue
            entry.lifted = entry.lifted or Lifted()
            entry.lifted.offer(view, facts)

    def share(self, survivor: Node, other: Node) -> None:
        """Gives a duplicate in a trace of its own the context of the call that it repeats."""
        layers: list[Context | None] = [other.entry.found, survivor.propagated, survivor.own]
        for ancestor in survivor.ancestors():
            layers += (ancestor.propagated, ancestor.own)
        found = contexts.combine((*layers, survivor.entry.found))
        other.entry.found = replace(found, trace_name=None, workflow=None, release=None, version=None, environment=None)

    def own_usage(self, node: Node, facts: Facts) -> Facts:
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

    def mark_usage(self, node: Node, facts: Facts) -> None:
        """Notes on the ancestors that usage is counted below them."""
        if facts.usage is None:
            return
        ancestor = node.parent
        while ancestor is not None and not ancestor.usage_below:
            ancestor.usage_below = True
            ancestor = ancestor.parent

    def _context(self, node: Node, view: SpanView) -> Context:
        """What holds for a span when it is written; what it says itself is noted on the entry."""
        layers: list[Context | None] = [node.propagated, node.own]
        ancestor, height = node.parent, 0
        while ancestor is not None:
            if height >= _MAX_HEIGHT:
                ancestor = node.entry  # the last one asked
            if self._look(ancestor) or ancestor.promised or ancestor.parent is None:
                if ancestor.propagated is not None:  # nearly all say nothing
                    layers.append(ancestor.propagated)
                if ancestor.own is not None:
                    layers.append(ancestor.own)
            ancestor, height = ancestor.parent, height + 1
        if node.parent is None:
            layers.append(node.found)
        elif node.own is not None or node.propagated is not None:
            self._note_on_entry(node)
        layers.append(self._beneath(view.resource))
        return contexts.combine(layers)

    def _note_on_entry(self, node: Node) -> None:
        """What is found below an entry span also goes on its row, as long as that is to come; bounded."""
        entry = node.entry
        if entry.written and entry.found is not None:
            return
        below = contexts.combine((entry.found, node.propagated, node.own))
        if len(below.tags) <= _MAX_FOUND and len(below.metadata) <= _MAX_FOUND:
            entry.found = below.of_trace()

    def _beneath(self, resource: Mapping[str, Value]) -> Context | None:
        """What holds where nothing else is said: settings, then the resource; read once for the resource that spans share."""
        if resource is not self._resource:
            self._resource = resource
            base = contexts.combine((self._defaults, contexts.of_resource(resource)))
            self._base = base if base != contexts.NOTHING else None
        return self._base

    def _trace_name(self, node: Node, found: Context) -> str | None:
        """The strongest name known so far: given, then the workflow's, then the entry span's."""
        trace = node.trace
        if found.trace_name or found.workflow:
            for rank, name in ((_GIVEN, found.trace_name), (_WORKFLOW, found.workflow)):
                if name and rank > trace.name_rank:
                    trace.name, trace.name_rank = name, rank
        if trace.name_rank < _WORKFLOW:
            entry = trace.root or node.entry
            self._look(entry)
            if entry.shown_name:
                trace.name, trace.name_rank = entry.shown_name, _ENTRY
        return found.trace_name or trace.name

    def _environment(self, given: str) -> str:
        shown = contexts.normalise_environment(given)
        if shown != given and self._may_log("environment"):
            logger.warning(
                "otel-langfuse: Langfuse shows environment %r as %r; it allows 40 lower-case letters, digits, - and _",
                given[:60],
                shown,
            )
        return shown
