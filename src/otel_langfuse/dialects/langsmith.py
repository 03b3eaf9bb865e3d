"""LangSmith's OpenTelemetry export (scope ``langsmith``).

Source: langsmith SDK ``_internal/otel``; ``langsmith.trace.session_id`` is the project, not a conversation.
"""

from __future__ import annotations

from otel_langfuse.dialects.chat import as_content
from otel_langfuse.dialects.reading import Row, Table, load
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import Content, Facts, Json, ObservationType, SpanView, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "langsmith"
HINTS = Hints(scopes=("langsmith",), keys=("langsmith.span.kind",))
_METADATA = "langsmith.metadata."


def _messages(value: Value) -> Content | None:
    """Inputs and outputs are the run's own JSON, with messages below ``messages`` or ``generations``."""
    given = load(value) if isinstance(value, str) else None
    if isinstance(given, dict):
        for key in ("messages", "input", "output", "choices"):
            listed = given.get(key)
            if isinstance(listed, list) and listed:
                inner = listed[0] if isinstance(listed[0], list) else listed
                return as_content([_unwrapped(item) for item in inner])
    return as_content(value)


def _unwrapped(item: Json) -> Value:
    """A choice's message, or the message itself."""
    inner = item.get("message") if isinstance(item, dict) else None
    return inner if isinstance(inner, dict) else item  # type: ignore[return-value]  # Json is a Value


def _tags(value: Value) -> tuple[str, ...] | None:
    if isinstance(value, list):
        return tuple(str(item) for item in value) or None
    return tuple(part.strip() for part in value.split(",") if part.strip()) or None if isinstance(value, str) else None


TABLE = Table(
    (
        Row("langsmith.span.kind", "metadata.langsmith.span.kind"),
        Row("gen_ai.prompt", "input", _messages),
        Row("gen_ai.completion", "output", _messages),
        Row("langsmith.trace.name", "workflow"),
        Row("langsmith.span.tags", "tags", _tags),
        Row(_METADATA + "user_id", "user"),
        Row(_METADATA + "session_id", "session"),
        Row(_METADATA + "thread_id", "conversation"),
        Row(_METADATA + "ls_model_name", "request_model"),
        Row(_METADATA + "ls_provider", "provider"),
        Row(_METADATA + "*", "trace_metadata"),
        Row("ls_model_name", "request_model"),
    )
)
_TYPES = {
    "llm": ObservationType.GENERATION,
    "chain": ObservationType.CHAIN,
    "prompt": ObservationType.CHAIN,
    "parser": ObservationType.CHAIN,
    "tool": ObservationType.TOOL,
    "retriever": ObservationType.RETRIEVER,
    "embedding": ObservationType.EMBEDDING,
}


def read(view: SpanView) -> Facts | None:
    """The facts of a LangSmith span."""
    kind = view.attributes.get("langsmith.span.kind")
    if view.scope_name != "langsmith" and kind is None:
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts)
    facts.type = _TYPES.get(str(kind or "").lower())
    return facts
