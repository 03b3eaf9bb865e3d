"""What leaves the pipeline: one observation, placed and enriched, on its way to a writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from otel_langfuse.model import Content, Facts, SpanView

__all__ = ["NO_NOTE", "Row"]

NO_NOTE: Mapping[str, str] = MappingProxyType({})
"""What the pipeline notes on most rows."""


@dataclass(slots=True)
class Row:
    """One observation, placed and enriched, on its way to Langfuse.

    ``view`` and ``facts`` say what happened; the other fields say where it stands and what it inherits. ``note`` are
    metadata that the pipeline itself adds (``duplicate_of``, ``incomplete``).
    """

    view: SpanView
    facts: Facts
    parent_id: bytes = b""
    is_root: bool = False
    name: str = ""
    trace_name: str | None = None
    user: str | None = None
    session: str | None = None
    tags: tuple[str, ...] = ()
    trace_metadata: Mapping[str, str] = field(default_factory=dict)
    release: str | None = None
    version: str | None = None
    environment: str | None = None
    lifted_input: Content | None = None
    lifted_output: Content | None = None
    note: Mapping[str, str] = field(default_factory=lambda: NO_NOTE)
