"""Semantic Kernel (``semantic_kernel.*``, ``Microsoft.SemanticKernel*``).

Source: semantic-kernel ``utils/telemetry``. Prompt functions run as ``execute_tool <random name>`` around the model call:
they are steps, not tools. Content of older releases travels in a log record's or an event's ``gen_ai.event.content``.
"""

from __future__ import annotations

from otel_langfuse.dialects.reading import Row, Table
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import Facts, ObservationType, SpanView

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "semantic-kernel"
HINTS = Hints(scopes=("semantic_kernel", "Microsoft.SemanticKernel"))

TABLE = Table((Row("sk.available_functions", "metadata.available_functions"),))


def read(view: SpanView) -> Facts | None:
    """What only Semantic Kernel's scopes tell."""
    if not view.scope_name.startswith(HINTS.scopes):
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts)
    if (
        view.attributes.get("gen_ai.operation.name") == "execute_tool" and "gen_ai.tool.call.id" not in view.attributes
    ) or "gen_ai.operation.name" not in view.attributes:
        facts.type = ObservationType.CHAIN
    return facts
