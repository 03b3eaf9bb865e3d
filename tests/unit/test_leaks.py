"""No key that the Langfuse server interprets leaves under its own name (server 4.16, rules section 4 to 13)."""

from __future__ import annotations

import pytest

from support import CHAT, convert_all, span

INTERPRETED = """
langfuse.trace.name langfuse.user.id user.id langfuse.session.id session.id gen_ai.conversation.id langfuse.tags tag.tags
langfuse.public langfuse.release langfuse.version langfuse.environment deployment.environment.name deployment.environment
openinference.span.kind gen_ai.operation.name genkit:metadata:subtype operation.name ai.operationId ai.toolCall
gen_ai.tool.name gen_ai.tool.call.id flue.tool.name flue.tool.call_id flue.task.id flue.agent
gen_ai.request.model gen_ai.response.model llm.model_name llm.response.model model ai.model.id
genkit:name logfire.msg ai.toolCall.name ai.telemetry.functionId
ai.telemetry.metadata.userId ai.telemetry.metadata.sessionId ai.telemetry.metadata.tags ai.telemetry.metadata.langfusePrompt
langfuse.internal.as_root langfuse.internal.is_app_root
genkit:input genkit:output ai.prompt.messages ai.prompt ai.toolCall.args ai.response.text ai.result.text ai.toolCall.result
ai.response.object gcp.vertex.agent.llm_request gcp.vertex.agent.llm_response prompt all_messages_events
lk.input_text lk.user_transcript lk.chat_ctx lk.function_tool.output lk.response.text events mlflow.spanInputs
mlflow.spanOutputs traceloop.entity.input traceloop.entity.output input.value output.value input output
pydantic_ai.all_messages final_result tool_arguments tool_response gen_ai.prompt gen_ai.completion gen_ai.prompt.0.content
llm.input_messages.0.message.content llm.output_messages.0.message.content gen_ai.input.messages gen_ai.output.messages
gen_ai.system_instructions gen_ai.tool.call.arguments gen_ai.tool.call.result gen_ai.tool.definitions ai.prompt.tools
model_request_parameters llm.tools.0.tool.json_schema gen_ai.usage.input_tokens gen_ai.usage.cost gen_ai.usage.anything
llm.token_count.prompt llm.cost.total ai.usage.tokens ai.usage.cachedInputTokens ai.response.providerMetadata
llm.invocation_parameters model_config gen_ai.request.temperature gen_ai.request.service_tier
ai.response.msToFirstChunk ai.stream.msToFirstChunk langfuse.prompt.name langfuse.prompt.version langfuse.metadata
langfuse.metadata.x langfuse_user_id langfuse_session_id langfuse_tags tools
""".split()
# Below metadata the server lifts these names out again.
LIFTED = {"langfuse_user_id", "langfuse_session_id", "langfuse_tags", "tools"}
EXPLICIT = (
    "langfuse.observation.",
    "langfuse.trace.",
    "langfuse.user.id",
    "langfuse.session.id",
    "langfuse.release",
    "langfuse.version",
    "langfuse.environment",
    "langfuse.internal.is_app_root",
)


@pytest.mark.parametrize("key", INTERPRETED)
@pytest.mark.parametrize(
    "scope", ["genai.lib", "ai", "genkit-tracer", "pydantic-ai", "livekit-agents", "langfuse-sdk", "gcp.vertex.agent"]
)
def test_no_interpreted_key_leaks(key: str, scope: str) -> None:
    view = span(1, attributes={**CHAT, key: "[1]"}, scope=scope)
    written = convert_all([view])[1]
    assert not [name for name in written if not name.startswith(EXPLICIT)]
    for name in written:
        if name.startswith("langfuse.observation.metadata."):
            assert name.removeprefix("langfuse.observation.metadata.") not in LIFTED


def test_span_events_and_resource_keys_stay_here() -> None:
    """The server reads content from span events, and environment and release from the resource."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from otel_langfuse.langfuse.copy import LangfuseCopy
    from otel_langfuse.langfuse.wire import assemble
    from otel_langfuse.model import EventView

    view = span(
        1,
        attributes=CHAT,
        events=[EventView("gen_ai.user.message", 1, {"content": "x"})],
        resource={"langfuse.environment": "Prod", "langfuse.release": "r1", "service.name": "shop"},
    )
    row = convert_all([view]).row(1)
    request = ExportTraceServiceRequest.FromString(assemble([LangfuseCopy().draft(row).encode()]))
    (resource_spans,) = request.resource_spans
    assert [pair.key for pair in resource_spans.resource.attributes] == ["service.name"]
    assert not resource_spans.scope_spans[0].spans[0].events
    written = convert_all([view])[1]
    assert (written["langfuse.environment"], written["langfuse.release"]) == ("prod", "r1")
