"""Google's Agent Development Kit (scope ``gcp.vertex.agent``): whole requests and responses as JSON attributes.

Source: google-adk ``telemetry.py``. With content capture the model call carries ``gcp.vertex.agent.llm_request`` and
``llm_response``; newer releases use the conventions' records instead. ``{}`` stands for "not captured".
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, as_tools, raw_content
from otel_langfuse.dialects.parameters import request_parameters
from otel_langfuse.dialects.reading import Row, Table, json_object
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import Content, Facts, Json, SpanView, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "google-adk"
HINTS = Hints(scopes=("gcp.vertex.agent",))


def _captured(value: Value) -> Content | None:
    return None if value in ("{}", "") else raw_content(value)


TABLE = Table(
    (
        Row("gcp.vertex.agent.tool_call_args", "input", _captured),
        Row("gcp.vertex.agent.tool_response", "output", _captured),
        Row("gcp.vertex.agent.data", "input", _captured),
        Row("gcp.vertex.agent.session_id", "conversation"),
        Row("gcp.vertex.agent.invocation_id", "metadata.invocation_id"),
        Row("gcp.vertex.agent.event_id", "metadata.event_id"),
    )
)


def read(view: SpanView) -> Facts | None:
    """The facts that only ADK's own keys state."""
    if view.scope_name != "gcp.vertex.agent":
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts)
    for key in ("gcp.vertex.agent.tool_call_args", "gcp.vertex.agent.tool_response"):
        if view.attributes.get(key) == "{}":
            facts.consumed.add(key)
    _request(view.attributes, facts)
    _response(view.attributes, facts)
    if "gen_ai.operation.name" not in view.attributes and not view.name.startswith(("call_llm", "invocation", "agent_run")):
        facts.recognised = bool(facts.input or facts.output)
    return facts


def _request(attributes: Mapping[str, Value], facts: Facts) -> None:
    body = json_object(attributes, "gcp.vertex.agent.llm_request", facts.consumed)
    contents = body.get("contents")
    if isinstance(contents, list):
        facts.input = as_content(contents)  # type: ignore[arg-type]  # Json is a Value
    config = body.get("config")
    if not isinstance(config, dict):
        return
    system = config.get("system_instruction")
    if isinstance(system, str) and system:
        facts.system = as_content([{"role": "system", "content": system}])
    facts.tools = as_tools(_declarations(config.get("tools")))
    facts.parameters.update(request_parameters({k: v for k, v in config.items() if k != "labels"}) or {})


def _declarations(tools: Json) -> list[Value]:
    found: list[Value] = []
    for tool in tools if isinstance(tools, list) else ():
        listed = tool.get("function_declarations") if isinstance(tool, dict) else None
        found += listed if isinstance(listed, list) else []  # type: ignore[arg-type]  # Json is a Value
    return found


def _response(attributes: Mapping[str, Value], facts: Facts) -> None:
    body = json_object(attributes, "gcp.vertex.agent.llm_response", facts.consumed)
    content = body.get("content")
    if isinstance(content, dict):
        facts.output = as_content([content], "assistant")  # type: ignore[list-item]  # Json is a Value
