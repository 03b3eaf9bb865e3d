"""Strands Agents: Bedrock-style content blocks in span events, old and new usage names side by side.

Source: strands ``telemetry/tracer.py``. Agent spans repeat the usage of their calls. Time to first token is milliseconds.
"""

from __future__ import annotations

from otel_langfuse.dialects.reading import Row, Table, as_integer, as_number
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Facts, ObservationType, SpanView

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "strands"
HINTS = Hints(scopes=("strands",), keys=("gen_ai.system",), but=frozenset(("gen_ai.system_instructions",)))

TABLE = Table(
    (
        Row("gen_ai.usage.input_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.prompt_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.output_tokens", "usage.output", as_integer),
        Row("gen_ai.usage.completion_tokens", "usage.output", as_integer),
        Row("gen_ai.usage.total_tokens", "usage.total", as_integer),
        Row("gen_ai.usage.cache_read.input_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.cache_read_input_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.cache_creation.input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.cache_write_input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.event.start_time", "-"),
        Row("gen_ai.event.end_time", "-"),
    )
)
_OPERATIONS = {"execute_event_loop_cycle": ObservationType.CHAIN, "invoke_graph": ObservationType.CHAIN}


def read(view: SpanView) -> Facts | None:
    """The facts that only Strands states; its messages are the older conventions' span events."""
    if not view.scope_name.startswith("strands") and view.attributes.get("gen_ai.system") != "strands-agents":
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts, shape_of(view))
    operation = str(view.attributes.get("gen_ai.operation.name") or "")
    facts.type = _OPERATIONS.get(operation)
    if facts.type is None and operation.startswith("invoke_swarm"):
        facts.type = ObservationType.CHAIN
    milliseconds = as_number(view.attributes.get("gen_ai.server.time_to_first_token"))
    if milliseconds is not None and 0 <= milliseconds < 86_400_000:
        facts.first_token_ns = view.start_ns + int(milliseconds * 1e6)
        facts.consumed.add("gen_ai.server.time_to_first_token")
    return facts
