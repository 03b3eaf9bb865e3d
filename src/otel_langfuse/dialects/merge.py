"""The one place where readers meet: their order, and the rule by which their findings become one.

Each reader sees the same span and knows nothing of the others. For each field the first reader in order that says
something wins; dictionaries are filled up key by key; consumed keys add up. A span is GenAI when a reader
recognises it and none calls it noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from otel_langfuse.dialects import (
    common,
    genkit,
    google_adk,
    langfuse_native,
    langsmith,
    litellm,
    livekit,
    logfire,
    mcp,
    mlflow,
    openinference,
    openlit,
    openllmetry,
    otel_events,
    otel_genai,
    pydantic_ai,
    semantic_kernel,
    strands,
    vercel,
)
from otel_langfuse.dialects.reading import Table
from otel_langfuse.dialects.recall import Memory, silent
from otel_langfuse.dialects.shapes import Hints, Shape, shape_of
from otel_langfuse.model import Facts, ObservationType, SpanView

__all__ = ["DIALECTS", "Dialect", "may_be_genai", "merge", "read"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A reader with its name, the table behind it, and where it may have a word."""

    name: str
    read: Callable[[SpanView], Facts | None]
    table: Table
    hints: Hints


# Order matters only where two readers know one span: what an instrumentation says in its own keys comes before what the
# conventions' readers make of the same span. LiteLLM is first because it writes Langfuse's keys in shapes of its own.
DIALECTS: tuple[Dialect, ...] = tuple(
    Dialect(module.NAME, module.read, module.TABLE, module.HINTS)
    for module in (
        litellm,
        langfuse_native,
        mcp,
        vercel,
        pydantic_ai,
        logfire,
        openlit,
        strands,
        google_adk,
        semantic_kernel,
        genkit,
        langsmith,
        mlflow,
        livekit,
        openinference,
        openllmetry,
        otel_genai,
        otel_events,
        common,
    )
)

_FILLED = tuple(
    field.name
    for field in fields(Facts)
    if field.init
    and field.name
    not in ("dialect", "recognised", "noise", "donates", "consumed", "parameters", "metadata", "trace_metadata", "passthrough")
)
_KEYED = ("parameters", "metadata", "trace_metadata", "passthrough")


_ERROR = 2  # trace.proto Status.STATUS_CODE_ERROR
_MAX_SCOPES = 64
_silent = silent(DIALECTS)
_ASKED = tuple((dialect.hints, dialect.read) for dialect in DIALECTS)
_EVENTS = tuple(prefix for dialect in DIALECTS for prefix in dialect.hints.events)

# What tells that a span may be GenAI, for those who have to decide without reading it: scopes that readers go by, and
# prefixes of all keys in which GenAI spans hold content, also of those by which no reader would recognise a span.
_SCOPES = (
    "ai",
    "com.anthropic.",
    "gcp.vertex.agent",
    "genkit",
    "langfuse-sdk",
    "langsmith",
    "litellm",
    "livekit",
    "logfire",
    "mcp",
    "Microsoft.SemanticKernel",
    "mlflow",
    "openinference.",
    "openlit",
    "opentelemetry.instrumentation.bedrock",
    "opentelemetry.instrumentation.crewai",
    "opentelemetry.instrumentation.genai.",
    "opentelemetry.instrumentation.mcp",
    "opentelemetry.util.genai",
    "pydantic-ai",
    "semantic_kernel",
    "strands",
    "traceloop.",
)
_KEYS = (
    "ai.",
    "gen_ai.",
    "genkit:",
    "langfuse.",
    "langsmith.",
    "lk.",
    "llm.",
    "mcp.",
    "mlflow.",
    "openinference.",
    "pydantic_ai.",
    "telemetry.sdk.name",
    "traceloop.",
)


def may_be_genai(view: SpanView) -> bool:
    """Whether any reader but the one for all spans could have a word on this one."""
    if view.contents or view.scope_name.startswith(_SCOPES):
        return True
    if any(key.startswith(_KEYS) for key in view.attributes):
        return True
    return any(event.name.startswith("gen_ai.") for event in view.events)


def read(view: SpanView, *, anew: bool = False) -> Facts:
    """Everything that the readers say about a span.

    Args:
        view: The span.
        anew: Whether the caller wants facts to change: such are shared with no other span.
    """
    facts = (None if anew else _recalled(view)) or _ask(view)
    if facts.first_token_after is not None and facts.first_token_ns is None and view.start_ns:
        facts.first_token_ns = view.start_ns + int(facts.first_token_after * 1e9)
    return facts


def _recalled(view: SpanView) -> Facts | None:
    """What is known from spans like this one; ``None`` if the readers must be asked."""
    if view.status_code == _ERROR or view.contents or view.status_message or not _silent(view.events):
        return None
    shape = shape_of(view)
    memory = shape.memories.get(view.scope_name)
    if memory is None:
        memory = _remember(shape, view.scope_name)
    return None if memory.useless else memory.recall(view)


def _remember(shape: Shape, scope: str) -> Memory:
    """The memory of a shape's spans in a scope; events that no reader hears need no reader."""
    asked = [dialect for dialect in DIALECTS if dialect.hints.allow(scope, shape)]
    if len(shape.memories) >= _MAX_SCOPES:
        shape.memories.clear()
    memory = shape.memories[scope] = Memory(shape.keys, asked, _ask)
    return memory


def _ask(view: SpanView) -> Facts:
    """What the readers say of a span when each is asked."""
    found = [facts for reader in _readers(view, shape_of(view)) if (facts := reader(view)) is not None]
    if not found:
        return Facts(recognised=False)
    merged = _united(found)
    if merged.recognised and merged.type is None:
        merged.type = ObservationType.SPAN
    if merged.type is ObservationType.GENERATION and _never_called(view, merged):
        merged.type = ObservationType.SPAN
    return merged


def _readers(view: SpanView, shape: Shape) -> tuple[Callable[[SpanView], Facts | None], ...]:
    """The readers that may have a word on a span; of most spans of an application that is the one for all spans."""
    told = bool(view.contents) or (bool(view.events) and any(event.name.startswith(_EVENTS) for event in view.events))
    return shape.readers.get((view.scope_name, told)) or shape.choose(view.scope_name, told, _ASKED)


def _never_called(view: SpanView, facts: Facts) -> bool:
    """Whether the client refused its own arguments: then no request was made, and there is no call to show."""
    if facts.level != "ERROR" or facts.response_id or facts.usage or facts.output:
        return False
    kinds = [view.attributes.get("error.type"), *(event.attributes.get("exception.type") for event in view.events)]
    return any(isinstance(kind, str) and kind.rsplit(".", 1)[-1] == "TypeError" for kind in kinds)


def merge(found: list[Facts]) -> Facts:
    """Combines facts, those of earlier ones first; the given ones stay as they are."""
    first = found[0]
    copied = replace(
        first,
        consumed=set(first.consumed),
        parameters=dict(first.parameters),
        metadata=dict(first.metadata),
        trace_metadata=dict(first.trace_metadata),
        passthrough=dict(first.passthrough),
    )
    return _united([copied, *found[1:]])


def _united(found: list[Facts]) -> Facts:
    """Fills the first facts up from the others, in place: each reader's are fresh."""
    merged = found[0]
    if len(found) == 1:
        merged.dialect = merged.dialect if merged.recognised else ""
        merged.noise = merged.noise and merged.dialect != langfuse_native.NAME
        return merged
    # What states its own Langfuse type wants to be shown.
    explicit = any(facts.dialect == langfuse_native.NAME and facts.recognised for facts in found)
    merged.noise = not explicit and any(facts.noise for facts in found)
    merged.donates = any(facts.donates for facts in found)
    merged.dialect = next((facts.dialect for facts in found if facts.recognised), "")
    merged.recognised = any(facts.recognised for facts in found)
    missing = [name for name in _FILLED if not getattr(merged, name)]
    for facts in found[1:]:
        for name in missing:
            value = getattr(facts, name)
            if value:
                setattr(merged, name, value)
        missing = [name for name in missing if not getattr(merged, name)]
        for name in _KEYED:
            extra = getattr(facts, name)
            if extra:
                target = getattr(merged, name)
                for key, value in extra.items():
                    target.setdefault(key, value)
        merged.consumed |= facts.consumed
        if merged.first_token_after is None:
            merged.first_token_after = facts.first_token_after  # 0 counts
    return merged
