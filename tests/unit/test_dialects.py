"""Dialects that no recording covers, and what tables cannot say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otel_langfuse.dialects.catalogue import TARGETS, markdown
from otel_langfuse.dialects.merge import DIALECTS, may_be_genai, read
from otel_langfuse.model import EventView, Facts
from otel_langfuse.otlp.content_keys import Holds, holds
from support import CHAT, convert_all, span


def written(attributes: dict[str, Any], scope: str = "lib", **more: Any) -> dict[str, Any]:
    return convert_all([span(1, attributes=attributes, scope=scope, **more)])[1]


def test_every_row_names_a_field_that_exists() -> None:
    fields = set(Facts.__dataclass_fields__) | {"-"}
    for dialect in DIALECTS:
        for row in dialect.table.rows:
            assert row.field.split(".")[0] in fields, f"{dialect.name}: {row}"
            assert row.field.split(".")[0] in TARGETS, f"{dialect.name}: {row}"


def test_no_table_has_a_row_twice() -> None:
    for dialect in DIALECTS:
        rows = [(row.key, row.field) for row in dialect.table.rows]
        assert len(rows) == len(set(rows)), dialect.name


def test_the_catalogue_lists_every_row() -> None:
    text = markdown()
    assert all(f"| `{row.key}` |" in text for dialect in DIALECTS for row in dialect.table.rows)


def test_numbered_messages_of_older_openllmetry() -> None:
    found = written(
        {
            "llm.request.type": "chat",
            "gen_ai.system": "OpenAI",
            "gen_ai.request.model": "gpt-4",
            "gen_ai.prompt.0.role": "system",
            "gen_ai.prompt.0.content": "Be brief.",
            "gen_ai.prompt.1.role": "user",
            "gen_ai.prompt.1.content": '[{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]',
            "gen_ai.prompt.prompt_filter_results": "[{}]",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.finish_reason": "tool_calls",
            "gen_ai.completion.0.tool_calls.0.id": "c1",
            "gen_ai.completion.0.tool_calls.0.name": "w",
            "gen_ai.completion.0.tool_calls.0.arguments": '{"city":"Paris"}',
            "llm.request.functions.0.name": "w",
            "llm.request.functions.0.parameters": '{"type": "object"}',
            "gen_ai.usage.prompt_tokens": 9,
            "gen_ai.usage.completion_tokens": 3,
            "llm.usage.total_tokens": 12,
        },
        "opentelemetry.instrumentation.openai.v1",
    )
    shown = json.loads(found["langfuse.observation.input"])
    assert shown["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in shown["messages"][1]["content"]] == ["text", "image_url"]
    assert shown["tools"][0]["function"] == {"name": "w", "parameters": {"type": "object"}}
    assert json.loads(found["langfuse.observation.output"])["tool_calls"][0]["function"]["name"] == "w"
    assert json.loads(found["langfuse.observation.usage_details"]) == {"input": 9, "output": 3, "total": 12}
    assert not [key for key in found if "gen_ai.prompt" in key]


def test_numbered_messages_whose_first_were_dropped_by_the_sdk() -> None:
    attributes = {f"gen_ai.prompt.{n}.role": "user" for n in range(40, 50)}
    attributes |= {f"gen_ai.prompt.{n}.content": f"message {n}" for n in range(40, 50)}
    shown = json.loads(
        written({"llm.request.type": "chat", "gen_ai.request.model": "m", **attributes})["langfuse.observation.input"]
    )
    assert [item["content"] for item in shown] == [f"message {n}" for n in range(40, 50)]


def test_strands_blocks_in_span_events() -> None:
    def event(name: str, **attributes: Any) -> EventView:
        return EventView(name, 1, attributes)

    found = written(
        {"gen_ai.system": "strands-agents", "gen_ai.operation.name": "chat", "gen_ai.request.model": "m"},
        "strands.telemetry.tracer",
        events=[
            event("gen_ai.user.message", content='[{"text": "weather?"}]'),
            event("gen_ai.assistant.message", content='[{"toolUse": {"toolUseId": "t1", "name": "w", "input": {"c": 1}}}]'),
            event("gen_ai.tool.message", content='[{"toolResult": {"toolUseId": "t1", "content": [{"text": "sunny"}]}}]'),
            event("gen_ai.choice", message='[{"text": "It is sunny."}]', finish_reason="end_turn"),
        ],
    )
    shown = json.loads(found["langfuse.observation.input"])
    assert shown[1]["tool_calls"][0]["function"] == {"name": "w", "arguments": '{"c":1}'}
    assert shown[2] == {"role": "tool", "content": "sunny", "tool_call_id": "t1"}
    assert json.loads(found["langfuse.observation.output"])["content"] == "It is sunny."


def test_google_adk_requests_in_attributes() -> None:
    request = {
        "model": "gemini",
        "config": {
            "system_instruction": "Be brief.",
            "temperature": 0.5,
            "tools": [{"function_declarations": [{"name": "w", "parameters": {"type": "OBJECT"}}]}],
        },
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"function_call": {"name": "w", "args": {}}}]},
        ],
    }
    response = {"content": {"role": "model", "parts": [{"text": "hello"}]}}
    found = written(
        {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.request.model": "gemini",
            "gcp.vertex.agent.llm_request": json.dumps(request),
            "gcp.vertex.agent.llm_response": json.dumps(response),
            "gcp.vertex.agent.session_id": "s1",
        },
        "gcp.vertex.agent",
    )
    shown = json.loads(found["langfuse.observation.input"])
    assert [item["role"] for item in shown["messages"]] == ["system", "user", "assistant"]
    assert shown["messages"][2]["tool_calls"][0]["function"]["name"] == "w"
    assert shown["tools"][0]["function"]["name"] == "w"
    assert json.loads(found["langfuse.observation.output"]) == {"role": "assistant", "content": "hello"}
    assert json.loads(found["langfuse.observation.model.parameters"]) == {"temperature": 0.5}
    assert found["langfuse.session.id"] == "s1"


def test_genkit() -> None:
    found = written(
        {
            "genkit:name": "googleai/gemini",
            "genkit:metadata:subtype": "model",
            "genkit:input": json.dumps(
                {"messages": [{"role": "user", "content": [{"text": "hi"}]}], "config": {"temperature": 1}}
            ),
            "genkit:output": json.dumps(
                {
                    "message": {
                        "role": "model",
                        "content": [{"text": "hello"}, {"toolRequest": {"ref": "1", "name": "w", "input": {}}}],
                    },
                    "usage": {"inputTokens": 5, "outputTokens": 2, "thoughtsTokens": 3, "totalTokens": 10},
                }
            ),
        },
        "genkit-tracer",
    )
    assert found["langfuse.observation.type"] == "generation"
    assert json.loads(found["langfuse.observation.input"]) == [{"role": "user", "content": "hi"}]
    assert json.loads(found["langfuse.observation.output"])["tool_calls"][0]["function"]["name"] == "w"
    assert json.loads(found["langfuse.observation.usage_details"])["total"] == 10


def test_langsmith() -> None:
    found = written(
        {
            "langsmith.span.kind": "llm",
            "gen_ai.system": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.prompt": json.dumps({"messages": [{"role": "user", "content": "hi"}]}),
            "gen_ai.completion": json.dumps({"choices": [{"message": {"role": "assistant", "content": "hello"}}]}),
            "langsmith.metadata.user_id": "u",
            "langsmith.metadata.session_id": "s",
            "langsmith.trace.session_id": "a project",
            "langsmith.span.tags": "a, b",
        },
        "langsmith",
    )
    assert found["langfuse.observation.type"] == "generation"
    assert json.loads(found["langfuse.observation.input"]) == [{"role": "user", "content": "hi"}]
    assert json.loads(found["langfuse.observation.output"]) == {"role": "assistant", "content": "hello"}
    assert (found["langfuse.user.id"], found["langfuse.session.id"]) == ("u", "s")
    assert found["langfuse.trace.tags"] == ["a", "b"]


def test_mlflow() -> None:
    found = written(
        {
            "mlflow.spanType": '"CHAT_MODEL"',
            "mlflow.spanInputs": json.dumps(
                {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
            ),
            "mlflow.spanOutputs": json.dumps(
                {"id": "r", "model": "gpt-4o-1", "choices": [{"message": {"role": "assistant", "content": "yo"}}]}
            ),
            "mlflow.chat.tokenUsage": json.dumps({"input_tokens": 4, "output_tokens": 1, "total_tokens": 5}),
            "mlflow.llm.cost": json.dumps({"input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.3}),
            "mlflow.trace.session": '"s"',
        },
        "mlflow.openai",
    )
    assert found["langfuse.observation.type"] == "generation"
    assert found["langfuse.observation.model.name"] == "gpt-4o-1"
    assert json.loads(found["langfuse.observation.output"]) == {"role": "assistant", "content": "yo"}
    assert json.loads(found["langfuse.observation.cost_details"]) == {"input": 0.1, "output": 0.2, "total": 0.3}
    assert found["langfuse.session.id"] == "s"


def test_livekit() -> None:
    found = written({"lk.user_transcript": "hi", "lk.response.text": "hello"}, "livekit-agents", name="agent_turn")
    assert found["langfuse.observation.type"] == "agent"
    assert (found["langfuse.observation.input"], found["langfuse.observation.output"]) == ("hi", "hello")


def test_vercel_cache_writes_stand_in_the_providers_metadata() -> None:
    found = written(
        {
            "ai.operationId": "ai.generateText.doGenerate",
            "ai.model.id": "claude",
            "ai.usage.inputTokens": 100,
            "ai.usage.outputTokens": 5,
            "ai.usage.cachedInputTokens": 20,
            "ai.response.providerMetadata": json.dumps({"anthropic": {"cacheCreationInputTokens": 30}}),
        },
        "ai",
    )
    assert json.loads(found["langfuse.observation.usage_details"]) == {
        "input": 50, "output": 5, "input_cached_tokens": 20, "input_cache_creation": 30, "total": 105
    }  # fmt: skip


def test_openlit_counts_anthropics_input_without_cache() -> None:
    found = written(
        {
            **CHAT,
            "gen_ai.provider.name": "anthropic",
            "gen_ai.usage.input_tokens": 15,
            "gen_ai.usage.output_tokens": 2,
            "gen_ai.usage.cache_read.input_tokens": 10,
            "gen_ai.request.temperature": 1.0,
            "gen_ai.request.max_tokens": 7,
        },
        "openlit.instrumentation.anthropic",
    )
    assert json.loads(found["langfuse.observation.usage_details"])["total"] == 27
    assert json.loads(found["langfuse.observation.model.parameters"]) == {"max_tokens": 7}


def test_a_failed_openlit_call_has_nothing_but_its_name() -> None:
    found = written({}, "openlit.instrumentation.anthropic", name="chat claude-sonnet-4-5", status_code=2, status_message="429")
    assert found["langfuse.observation.type"] == "generation"
    assert found["langfuse.observation.model.name"] == "claude-sonnet-4-5"
    assert json.loads(found["langfuse.observation.cost_details"])["total"] == 0


@pytest.mark.parametrize("kind", ["TypeError", "builtins.TypeError"])
def test_a_call_that_the_client_refused_is_no_call(kind: str) -> None:
    asked = {key: value for key, value in CHAT.items() if "output" not in key and "usage" not in key and "response" not in key}
    found = written({**asked, "error.type": kind}, status_code=2)
    assert found["langfuse.observation.type"] == "span"
    assert found["langfuse.observation.level"] == "ERROR"
    assert "langfuse.observation.model.name" not in found


def test_explicit_langfuse_keys_are_kept_as_given() -> None:
    given = {
        "langfuse.observation.type": "generation",
        "langfuse.observation.input": '{ "spaced" : [1, 2] }',
        "langfuse.observation.output": "plain",
        "langfuse.observation.model.name": "mine",
        "langfuse.observation.model.parameters": '{"max_tokens": "Infinity", "temperature": 0}',
        "langfuse.observation.usage_details": '{"input": 5, "output": 2, "input_cached_tokens": 3}',
        "langfuse.observation.level": "WARNING",
        "langfuse.observation.metadata.key": '"v"',
        "langfuse.trace.metadata.plan": "gold",
        "langfuse.experiment.id": "e1",
        "gen_ai.request.model": "ignored",
        "gen_ai.operation.name": "chat",
    }
    found = written(given, "anything")
    for key in ("input", "output", "level", "metadata.key"):
        assert found[f"langfuse.observation.{key}"] == given[f"langfuse.observation.{key}"]
    assert found["langfuse.observation.model.name"] == "mine"
    assert json.loads(found["langfuse.observation.model.parameters"]) == {"temperature": 0}
    assert json.loads(found["langfuse.observation.usage_details"])["total"] == 10
    assert found["langfuse.trace.metadata.plan"] == "gold"
    assert found["langfuse.experiment.id"] == "e1"


def test_an_openai_usage_object_is_normalised() -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 12, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    found = written({"langfuse.observation.type": "generation", "langfuse.observation.usage_details": json.dumps(usage)})
    assert json.loads(found["langfuse.observation.usage_details"]) == {
        "input": 8, "output": 2, "input_cached_tokens": 12, "output_reasoning_tokens": 5, "total": 27
    }  # fmt: skip


def of_openinference(attributes: dict[str, Any], scope: str = "openai", **more: Any) -> dict[str, Any]:
    given = {"openinference.span.kind": "LLM", "llm.model_name": "m", **attributes}
    return written(given, f"openinference.instrumentation.{scope}", **more)


def test_openinference_tools_with_their_names_beside_them() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    spelled = {
        "llm.tools.0.tool.name": "weather",
        "llm.tools.0.tool.description": "says it",
        "llm.tools.0.tool.json_schema": json.dumps(schema),
        "llm.tools.1.tool.json_schema": json.dumps({"toolSpec": {"name": "time", "inputSchema": {"json": schema}}}),
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": "hi",
    }
    assert json.loads(of_openinference(spelled)["langfuse.observation.input"])["tools"] == [
        {"type": "function", "function": {"name": "weather", "description": "says it", "parameters": schema}},
        {"type": "function", "function": {"name": "time", "parameters": schema}},
    ]


def test_openinference_bodies_say_what_is_not_spelled_out() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    usage = {"prompt_tokens": 30, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 20}}
    usage["completion_tokens_details"] = {"reasoning_tokens": 4}
    answer = {"id": "r", "choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}], "usage": usage}
    found = of_openinference(
        {
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "hi",
            "llm.output_messages.0.message.role": "assistant",
            "llm.token_count.prompt": 30,
            "llm.token_count.completion": 9,
            "llm.invocation_parameters": json.dumps(
                {"top_p": "<openai.Omit object at 0x7f1>", "kwargs": {"tools": [tool], "n": 1}}
            ),
            "input.value": json.dumps({"kwargs": {"tools": [tool]}}),
            "output.value": json.dumps({"data": answer}),
        }
    )
    assert json.loads(found["langfuse.observation.input"])["tools"] == [tool]
    assert json.loads(found["langfuse.observation.output"])["tool_calls"] == [call]
    assert json.loads(found["langfuse.observation.model.parameters"]) == {"n": 1}
    counts = {"input": 10, "input_cached_tokens": 20, "output": 5, "output_reasoning_tokens": 4, "total": 39}
    assert json.loads(found["langfuse.observation.usage_details"]) == counts


def test_openinference_steps_beside_model_calls_are_none() -> None:
    def kind(**attributes: Any) -> str:
        return str(of_openinference({"input.value": "x", **attributes}, "llama_index")["langfuse.observation.type"])

    assert kind() == "chain"
    assert kind(**{"openinference.span.kind": "EMBEDDING"}) == "chain"
    assert kind(**{"llm.prompts": ["x"]}) == "generation"
    assert kind(**{"llm.token_count.prompt": 3}) == "generation"
    assert of_openinference({"input.value": "x"})["langfuse.observation.type"] == "generation"


def test_openinference_prompts_without_roles_are_the_input() -> None:
    assert (
        of_openinference({"llm.prompts": ["Go on"], "input.value": '{"args":["Go on"]}'})["langfuse.observation.input"]
        == "Go on"
    )
    assert of_openinference({"llm.prompts": ["a", "b"]})["langfuse.observation.input"] == '["a","b"]'
    titan = of_openinference({"llm.invocation_parameters": '{"inputText": "Go on"}'}, "bedrock")
    assert titan["langfuse.observation.input"] == "Go on"
    assert "langfuse.observation.model.parameters" not in titan


def test_openinference_answers_of_tools_keep_who_gave_them() -> None:
    found = of_openinference(
        {
            "llm.input_messages.0.message.role": "function",
            "llm.input_messages.0.function.0": '{"name": "weather", "content": "sunny", "call_id": "c1"}',
            "llm.input_messages.1.message.role": "tool",
            "llm.input_messages.1.message.content": "rainy",
            "llm.input_messages.1.message.name": "weather",
        },
        "autogen_agentchat",
    )
    assert json.loads(found["langfuse.observation.input"]) == [
        {"role": "tool", "content": "sunny", "name": "weather", "tool_call_id": "c1"},
        {"role": "tool", "content": "rainy", "name": "weather"},
    ]


def test_openinference_says_nothing_twice_and_nothing_empty() -> None:
    tool = {"openinference.span.kind": "TOOL", "tool.name": "weather", "tool.parameters": '{"a": 1}', "input.value": '{"a":1}'}
    assert not any("tool.parameters" in key for key in of_openinference(tool))
    stream = {"llm.token_count.prompt": 0, "llm.token_count.completion": 0, "output.value": "<groq.Stream object at 0x7f0a>"}
    found = of_openinference({"input.value": "x", **stream})
    assert "langfuse.observation.usage_details" not in found
    assert "langfuse.observation.output" not in found
    both = of_openinference({"llm.input_messages.0.message.content": "x", "gen_ai.response.model": "m-2026"})
    assert both["langfuse.observation.model.name"] == "m-2026"


def langchain(name: str, **said: Any) -> dict[str, Any]:
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", name], "kwargs": said}


def test_langsmith_of_langchain() -> None:
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "c1", "type": "tool_call"}
    meta = {"response_metadata": {"id": "r1", "model_name": "gpt-4o-2"}}
    found = written(
        {
            "langsmith.span.kind": "llm",
            "gen_ai.prompt": json.dumps(
                {
                    "messages": [
                        [langchain("SystemMessage", content="Be kind"), langchain("HumanMessage", content="hi", type="human")]
                    ]
                }
            ),
            "gen_ai.completion": json.dumps(
                {"generations": [[{"text": "", "message": langchain("AIMessageChunk", content="", tool_calls=[call], **meta)}]]}
            ),
            "langsmith.metadata.usage_metadata": json.dumps(
                {
                    "input_tokens": 30,
                    "output_tokens": 9,
                    "input_token_details": {"cache_read": 20},
                    "output_token_details": {"reasoning": 4},
                }
            ),
            "langsmith.metadata.ls_temperature": 0.5,
            "langsmith.metadata.temperature": 0.5,
            "langsmith.metadata.team": "blue",
            "langsmith.span.tags": "seq:step:1, mine",
        },
        "langsmith",
    )
    assert json.loads(found["langfuse.observation.input"]) == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "hi"},
    ]
    (said,) = json.loads(found["langfuse.observation.output"])["tool_calls"]
    assert (said["id"], said["function"]) == ("c1", {"name": "weather", "arguments": '{"city":"Rome"}'})
    counts = {"input": 10, "input_cached_tokens": 20, "output": 5, "output_reasoning_tokens": 4, "total": 39}
    assert json.loads(found["langfuse.observation.usage_details"]) == counts
    assert found["langfuse.observation.model.name"] == "gpt-4o-2"
    assert json.loads(found["langfuse.observation.model.parameters"]) == {"temperature": 0.5}
    assert found["langfuse.trace.tags"] == ["mine"]
    assert {key for key in found if key.startswith("langfuse.trace.metadata.")} == {"langfuse.trace.metadata.team"}


def test_langsmith_of_a_client() -> None:
    tool = {"type": "function", "function": {"name": "weather"}}
    found = written(
        {
            "langsmith.span.kind": "llm",
            "gen_ai.prompt": json.dumps({"input": "hi", "instructions": "Be kind", "model": "m", "tools": [tool], "top_p": 1}),
            "gen_ai.completion": json.dumps(
                {
                    "object": "response",
                    "id": "r",
                    "model": "m-2",
                    "output": [{"type": "message", "role": "assistant", "status": "completed", "content": [{"text": "yo"}]}],
                    "usage": {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4},
                }
            ),
        },
        "langsmith",
    )
    assert json.loads(found["langfuse.observation.input"]) == {
        "messages": [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "hi"}],
        "tools": [tool],
    }
    assert json.loads(found["langfuse.observation.output"]) == {"role": "assistant", "content": "yo"}
    assert json.loads(found["langfuse.observation.model.parameters"]) == {"top_p": 1}
    assert json.loads(found["langfuse.observation.usage_details"]) == {"input": 3, "output": 1, "total": 4}


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ({"messages": [["user", "hi"]], "remaining_steps": 5}, {"role": "user", "content": "hi"}),
        ({"output": {"content": "hi", "type": "ai"}}, {"role": "assistant", "content": "hi"}),
        ({"output": [1, 2], "score": 3}, {"output": [1, 2], "score": 3}),
        (
            {"messages": [{"content": "hi", "type": "human"}], "question": "Where?"},
            {"messages": [{"role": "user", "content": "hi"}], "question": "Where?"},
        ),
    ],
)
def test_langsmith_steps_lose_nothing_beside_messages(state: dict[str, Any], shown: Any) -> None:
    given = {"langsmith.span.kind": "chain", "gen_ai.completion": json.dumps(state), "langsmith.trace.name": "step"}
    assert json.loads(written(given, "langsmith")["langfuse.observation.output"]) == shown


def test_langsmith_runs_below_do_not_name_the_trace() -> None:
    rows = [
        span(1, name="graph", scope="langsmith", attributes={"langsmith.span.kind": "chain", "langsmith.trace.name": "graph"}),
        span(2, 1, name="step", scope="langsmith", attributes={"langsmith.span.kind": "chain", "langsmith.trace.name": "step"}),
    ]
    found = convert_all(rows)
    assert {found[number]["langfuse.trace.name"] for number in (1, 2)} == {"graph"}


def test_llamaindex_of_openllmetry_calls_models_in_tasks() -> None:
    entity = {"traceloop.span.kind": "task", "traceloop.entity.name": "OpenAI.task", "gen_ai.request.model": "m"}
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    answer = {"message": {"role": "assistant", "additional_kwargs": {"tool_calls": [call]}, "blocks": []}}
    chat = written(
        {
            **entity,
            "gen_ai.operation.name": "chat",
            "gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]',
            "gen_ai.output.messages": '[{"role": "assistant", "parts": []}]',
            "traceloop.entity.input": '{"messages": [{"blocks": [{"text": "hi"}]}]}',
            "traceloop.entity.output": json.dumps(answer),
        }
    )
    assert chat["langfuse.observation.type"] == "generation"
    assert json.loads(chat["langfuse.observation.input"]) == [{"role": "user", "content": "hi"}]
    assert json.loads(chat["langfuse.observation.output"])["tool_calls"] == [call]
    vectors = {**entity, "gen_ai.operation.name": "embeddings", "traceloop.entity.output": "[[0.5, 0.25], [1.5, 2.5]]"}
    assert written(vectors)["langfuse.observation.type"] == "embedding"
    assert written(vectors)["langfuse.observation.output"] == '{"count":2}'
    tool = written({"traceloop.span.kind": "task", "tool.name": "weather", "tool.arguments": '{"city": "Rome"}'})
    assert (tool["langfuse.observation.type"], tool["langfuse.observation.input"]) == ("tool", '{"city": "Rome"}')


@pytest.mark.parametrize("scope", ["opentelemetry.instrumentation.bedrock", "openlit.instrumentation.bedrock"])
def test_bedrock_counts_input_without_cache(scope: str) -> None:
    counts = {"gen_ai.usage.input_tokens": 20, "gen_ai.usage.output_tokens": 7, "gen_ai.usage.cache_read.input_tokens": 5}
    given = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.provider.name": "aws.bedrock", **counts}
    if "openlit" not in scope:
        given["gen_ai.usage.total_tokens"] = 27
    found = json.loads(written(given, scope)["langfuse.observation.usage_details"])
    assert found == {"input": 20, "output": 7, "input_cached_tokens": 5, "total": 32}


def test_crewai_of_openllmetry() -> None:
    scope = "opentelemetry.instrumentation.crewai.instrumentation"
    task = written({"traceloop.span.kind": "task", "crewai.task.description": "Go", "traceloop.entity.output": "Gone"}, scope)
    assert (task["langfuse.observation.input"], task["langfuse.observation.output"]) == ("Go", "Gone")
    crew = written({"gen_ai.operation.name": "invoke_agent", "crewai.crew.result": "Gone", "crewai.crew.tasks": "[]"}, scope)
    assert (crew["langfuse.observation.type"], crew["langfuse.observation.output"]) == ("agent", "Gone")


def test_events_of_botocore_say_calls_and_answers_once() -> None:
    use = {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Rome"}}}
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    result = {"toolResult": {"toolUseId": "t1", "content": [{"text": "sunny"}]}}
    said = [
        ("gen_ai.user.message", {"content": json.dumps([{"text": "hi"}])}),
        ("gen_ai.assistant.message", {"content": json.dumps([{"text": "Well"}, use]), "tool_calls": json.dumps([call])}),
        ("gen_ai.tool.message", {"id": "t1", "content": json.dumps([{"text": "sunny"}])}),
        ("gen_ai.user.message", {"content": json.dumps([result])}),
        ("gen_ai.user.message", {"content": json.dumps([{"text": "and?"}])}),
    ]
    events = tuple(EventView(name, number, attributes) for number, (name, attributes) in enumerate(said, 1))
    given = {"gen_ai.system": "aws.bedrock", "gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    messages = json.loads(written(given, events=events)["langfuse.observation.input"])
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "user"]
    assert len(messages[1]["tool_calls"]) == 1


def test_openlit_says_what_was_requested_and_no_more() -> None:
    defaults = {"seed": "", "stop_sequences": "[]", "top_k": 1.0, "user": "u1", "max_tokens": 50}
    given = {"gen_ai.operation.name": "chat", **{f"gen_ai.request.{key}": value for key, value in defaults.items()}}
    found = written(given, "openlit.instrumentation.anthropic")
    assert json.loads(found["langfuse.observation.model.parameters"]) == {"max_tokens": 50}
    assert found["langfuse.user.id"] == "u1"
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.workflow.input": "hi", "gen_ai.workflow.output": "yo"}
    shown = written(agent, "openlit.instrumentation.langchain")
    assert (shown["langfuse.observation.input"], shown["langfuse.observation.output"]) == ("hi", "yo")


def test_counts_by_their_older_names_in_the_current_conventions() -> None:
    counts = {"gen_ai.usage.prompt_tokens": 20, "gen_ai.usage.completion_tokens": 7}
    given = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.provider.name": "mistral_ai", **counts}
    found = written(given)
    assert json.loads(found["langfuse.observation.usage_details"]) == {"input": 20, "output": 7, "total": 27}


@pytest.mark.parametrize(
    ("scope", "first", "second"),
    [
        (
            "opentelemetry.instrumentation.bedrock",
            {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.cache_read.input_tokens": 0, "gen_ai.usage.total_tokens": 15},
            {"gen_ai.usage.input_tokens": 1000, "gen_ai.usage.cache_read.input_tokens": 500, "gen_ai.usage.total_tokens": 1005},
        ),
        (
            "app",
            {"tool.arguments": '{"a":1}', "gen_ai.task.input": '{"a":1}', "traceloop.span.kind": "tool"},
            {"tool.arguments": '{"a":1}', "gen_ai.task.input": "x", "traceloop.span.kind": "tool"},
        ),
    ],
)
def test_what_is_recalled_changes_nothing(scope: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    common = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "p", "gen_ai.usage.output_tokens": 5}
    for given in (first, first, second, second, first):
        view = span(1, scope=scope, attributes={**common, **given})
        assert read(view) == read(view, anew=True)


def test_answers_of_tools_under_one_id_are_all_kept() -> None:
    said = [("gen_ai.tool.message", {"id": "weather_0", "content": text}) for text in ("Paris 20", "London 10")]
    events = tuple(EventView(name, number, attributes) for number, (name, attributes) in enumerate(said, 1))
    given = {"gen_ai.system": "openai", "gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    messages = json.loads(written(given, events=events)["langfuse.observation.input"])
    assert [one["content"] for one in messages] == ["Paris 20", "London 10"]


def test_langsmith_keeps_what_it_cannot_read() -> None:
    given = {
        "langsmith.span.kind": "llm",
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.completion": '{"choices": [{"text": "Hello"}]}',
        "langsmith.metadata.usage_metadata": '{"total_cost": 0.02}',
        "langsmith.metadata.notes": "mine",
    }
    found = written(given, "langsmith")
    assert json.loads(found["langfuse.observation.usage_details"])["input"] == 10
    assert json.loads(found["langfuse.observation.cost_details"])["total"] == 0.02
    assert "Hello" in found["langfuse.observation.output"]
    assert found["langfuse.trace.metadata.notes"] == "mine"
    message = {"content": "", "type": "ai", "additional_kwargs": {"reasoning_content": "because"}, "status": "error"}
    shown = written({"langsmith.span.kind": "chain", "gen_ai.completion": json.dumps({"output": message})}, "langsmith")
    assert "because" in shown["langfuse.observation.output"]
    titled = {"type": "user", "content": "x", "title": "T"}
    shown = written({"langsmith.span.kind": "chain", "gen_ai.completion": json.dumps({"output": titled})}, "langsmith")
    assert "T" in shown["langfuse.observation.output"]


def test_openinference_loses_nothing_that_only_looks_the_same() -> None:
    tool = {"openinference.span.kind": "TOOL", "tool.parameters": "city: Paris", "input.value": "London"}
    assert "city: Paris" in of_openinference(tool).values()
    both = {"llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": "hello"}
    found = of_openinference({**both, "llm.input_messages.0.function.0": '{"content": "sunny", "call_id": "c"}'})
    assert [one["content"] for one in json.loads(found["langfuse.observation.input"])] == ["hello", "sunny"]


def test_llamaindex_answers_that_are_lists_or_blocks_are_kept() -> None:
    entity = {"traceloop.span.kind": "task", "traceloop.entity.name": "OpenAI.task", "gen_ai.operation.name": "chat"}
    assert written({**entity, "traceloop.entity.output": "[5, 7]"})["langfuse.observation.output"] == "[5, 7]"
    empty = {**entity, "gen_ai.input.messages": "[]", "traceloop.entity.input": "hi"}
    assert written(empty)["langfuse.observation.input"] == "hi"
    blocks = [{"block_type": "thinking", "content": "because"}, {"block_type": "text", "text": "yo"}]
    answer = {"gen_ai.output.messages": "[]", "traceloop.entity.output": json.dumps({"message": {"blocks": blocks}})}
    shown = written({**entity, **answer})["langfuse.observation.output"]
    assert "because" in shown
    assert "yo" in shown


@pytest.mark.parametrize("key", ["gen_ai.prompt", "gen_ai.completion", "input.value", "llm.tools.0.tool.json_schema"])
@pytest.mark.parametrize("field", ["messages", "tools", "input", "choices", "id"])
def test_json_that_is_nested_beyond_all_reason_harms_nobody(key: str, field: str) -> None:
    deep = '{"' + field + '":' + "[" * 700 + "]" * 700 + "}"
    for kind in ({"langsmith.span.kind": "llm"}, {"openinference.span.kind": "LLM"}):
        assert read(span(1, attributes={**kind, key: deep})).type is not None


@pytest.mark.parametrize(
    "scope", ["opentelemetry.instrumentation.crewai.instrumentation", "opentelemetry.instrumentation.bedrock"]
)
def test_scopes_that_tell_are_looked_for(scope: str) -> None:
    assert may_be_genai(span(1, scope=scope))
    assert holds("crewai.crew.result", True) is Holds.CONTENT
