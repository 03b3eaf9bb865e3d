"""LiveKit Agents (scope ``livekit-agents``): ``lk.*`` beside the GenAI conventions.

Source: livekit-agents ``telemetry/trace_types.py``; Langfuse rules section 4 and 8.
"""

from __future__ import annotations

from otel_langfuse.dialects.chat import as_content, raw_content
from otel_langfuse.dialects.reading import Row, Table, as_seconds
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import Facts, ObservationType, SpanView

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "livekit"
HINTS = Hints(scopes=("livekit-agents",), keys=("lk.",))

TABLE = Table(
    (
        Row("lk.chat_ctx", "input", as_content),
        Row("lk.user_transcript", "input", raw_content),
        Row("lk.input_text", "input", raw_content),
        Row("lk.function_tool.arguments", "input", raw_content),
        Row("lk.function_tool.output", "output", raw_content),
        Row("lk.response.text", "output", raw_content),
        Row("lk.function_tool.name", "name"),
        Row("lk.session_id", "session"),
        Row("lk.participant_identity", "user"),
    )
)
_NAMES = {
    "agent_session": ObservationType.CHAIN,
    "agent_turn": ObservationType.AGENT,
    "start_agent_activity": ObservationType.AGENT,
    "function_tool": ObservationType.TOOL,
    "llm_request": ObservationType.GENERATION,
    "llm_node": ObservationType.CHAIN,
}


def read(view: SpanView) -> Facts | None:
    """The facts of a LiveKit span."""
    if view.scope_name != "livekit-agents" and not any(key.startswith("lk.") for key in view.attributes):
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts)
    facts.type = _NAMES.get(view.name)
    seconds = as_seconds(view.attributes.get("lk.response.ttft"))
    if seconds is not None and facts.type is ObservationType.GENERATION:
        facts.first_token_ns = view.start_ns + int(seconds * 1e9)
        facts.consumed.add("lk.response.ttft")
    return facts
