"""The one place where readers meet: their order, and the rule by which their findings become one.

Each reader sees the same span and knows nothing of the others. For each field the first reader in order that says
something wins; dictionaries are filled up key by key; consumed keys add up. A span is GenAI when a reader
recognises it and none calls it noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from otel_langfuse.dialects import common, langfuse_native, openllmetry, otel_events, otel_genai
from otel_langfuse.dialects.reading import Table
from otel_langfuse.model import Facts, ObservationType, SpanView

__all__ = ["DIALECTS", "Dialect", "merge", "read"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A reader with its name and the table behind it."""

    name: str
    read: Callable[[SpanView], Facts | None]
    table: Table


DIALECTS: tuple[Dialect, ...] = (
    Dialect(langfuse_native.NAME, langfuse_native.read, langfuse_native.TABLE),
    Dialect(openllmetry.NAME, openllmetry.read, openllmetry.TABLE),
    Dialect(otel_genai.NAME, otel_genai.read, otel_genai.TABLE),
    Dialect(otel_events.NAME, otel_events.read, otel_events.TABLE),
    Dialect(common.NAME, common.read, common.TABLE),
)

_FILLED = tuple(
    field.name
    for field in fields(Facts)
    if field.name
    not in ("dialect", "recognised", "noise", "consumed", "parameters", "metadata", "trace_metadata", "passthrough")
)
_KEYED = ("parameters", "metadata", "trace_metadata", "passthrough")


def read(view: SpanView) -> Facts:
    """Everything that the readers say about a span."""
    merged = merge([facts for dialect in DIALECTS if (facts := dialect.read(view)) is not None])
    if merged.recognised and merged.type is None:
        merged.type = ObservationType.SPAN
    return merged


def merge(found: list[Facts]) -> Facts:
    """Combines facts, those of earlier readers first."""
    merged = Facts(dialect=next((facts.dialect for facts in found if facts.recognised), ""))
    merged.recognised = any(facts.recognised for facts in found)
    merged.noise = any(facts.noise for facts in found)
    for facts in found:
        for name in _FILLED:
            value = getattr(facts, name)
            if value and not getattr(merged, name):
                setattr(merged, name, value)
        for name in _KEYED:
            target = getattr(merged, name)
            for key, value in getattr(facts, name).items():
                target.setdefault(key, value)
        merged.consumed |= facts.consumed
    return merged
