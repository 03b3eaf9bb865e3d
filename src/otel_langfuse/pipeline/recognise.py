"""Reading spans, ended or still open, and what is known of a node from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from otel_langfuse import dialects
from otel_langfuse.model import Facts, ObservationType, SpanView
from otel_langfuse.pipeline import context as contexts
from otel_langfuse.pipeline.options import Options
from otel_langfuse.pipeline.policy import Policy
from otel_langfuse.pipeline.root import entry_name
from otel_langfuse.pipeline.rules import apply_rules
from otel_langfuse.pipeline.tree import Node

__all__ = ["Recogniser"]

# Keys that no reader took and that by their name hold content or its description; left out where content is.
_CONTENT = re.compile(
    r"description|prompt|message|content|input|output|query|document|argument|template|instruction", re.IGNORECASE
)
_MAX_HEIGHT = 256  # ancestors looked at: a bound on the work per span in very deep traces


def _without_content(metadata: dict[str, str]) -> dict[str, str]:
    return {key: text for key, text in metadata.items() if not _CONTENT.search(key)}


class Recogniser:
    """Reads views by dialects and rules, and notes on nodes what follows.

    Args:
        options: See `Options`.
        policy: Which spans are kept.
        report: Called with a text when an open span cannot be read.
    """

    def __init__(self, options: Options, policy: Policy, report: Callable[[str], None]) -> None:
        self._options = options
        self._policy = policy
        self._report = report
        self._moment = 0
        self._changes = bool(options.attribute_map) or not options.capture_content

    def advance(self) -> None:
        """Begins a new moment: within one, an open span is looked at once, however many rows and rules ask for it."""
        self._moment += 1

    def read(self, view: SpanView) -> Facts:
        """What dialects and the user's rules say of a span; a view is read once, and its facts are changed by nobody."""
        if view.facts is not None:
            return view.facts
        facts = dialects.read(view, anew=self._changes)
        if self._options.attribute_map:
            apply_rules(self._options.attribute_map, view, facts)
        if not self._options.capture_content:
            facts.input = facts.output = facts.system = facts.tools = None
            facts.consumed |= {key for key in view.attributes if _CONTENT.search(key)}
            facts.metadata = _without_content(facts.metadata)
            facts.trace_metadata = _without_content(facts.trace_metadata)
            # Explicit keys that no reader opened: whole metadata as text, expected outputs of experiments.
            facts.passthrough = {key: value for key, value in facts.passthrough.items() if key.endswith((".id", ".version"))}
        view.facts = facts
        return facts

    def read_ahead(self, views: Iterable[SpanView]) -> None:
        """Reads spans whose turn comes soon; an error comes again then."""
        for view in views:
            try:
                self.read(view)
            except BaseException:  # noqa: BLE001, S110  # it comes again, and is told of then
                pass

    def note(self, node: Node, view: SpanView, facts: Facts) -> bool:
        """Notes on the node what its span says; whether the span gets a row of its own."""
        keep = self._policy.keeps(view, facts)
        node.scope = view.scope_name
        node.own = contexts.of_facts(facts)
        if node.is_entry:
            node.shown_name = entry_name(view)
        if keep:
            node.kept = True
            node.type = facts.type or ObservationType.SPAN
        return keep

    def look(self, node: Node) -> bool:
        """Reads an open span as far as it is; whether it is known to be kept."""
        if node.live is None or node.looked_at == self._moment:
            return node.kept
        node.looked_at = self._moment
        try:
            view = node.live.look()
            if view is not None:
                self.note(node, view, self.read(view))
        except Exception as error:  # noqa: BLE001  # a span that cannot be read yet must not stop those below it
            self._report(f"an open span could not be read: {type(error).__name__}")
        return node.kept

    def peek(self, node: Node) -> SpanView | None:
        """The span of a node as it is now, ended or open; ``None`` when it is gone."""
        if node.pending is not None:
            return node.pending[0]
        try:
            return node.live.peek() if node.live is not None else None
        except Exception:  # noqa: BLE001  # likewise
            return None

    def generation_above(self, node: Node) -> Node | None:
        """The nearest ancestor that is a model call, open or ended."""
        ancestor, height = node.parent, 0
        while ancestor is not None and height <= _MAX_HEIGHT:
            if ancestor.type is None:
                self.look(ancestor)
            if ancestor.type is not None and ancestor.type.is_model_call:
                return ancestor
            ancestor, height = ancestor.parent, height + 1
        return None
