"""The stub of the OpenAI API, seen through the real OpenAI SDK: it parses every answer and raises its own errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from otel_langfuse.testing._stub_model import fill_schema
from otel_langfuse.testing.stub_openai import CACHED_TOKENS, REASONING_TOKENS, StubOpenAI, count_tokens

MODEL = "gpt-5-mini"
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
CHAT_TOOLS = [{"type": "function", "function": WEATHER}]
RESPONSE_TOOLS = [{"type": "function", "strict": True, **WEATHER}]


class Trip(BaseModel):
    """A structured answer with what schemas have: nesting, arrays, optionals, enums."""

    class Stop(BaseModel):
        city: str
        nights: int

    stops: list[Stop]
    budget: float
    confirmed: bool
    note: str | None


@pytest.fixture
def stub() -> Iterator[StubOpenAI]:
    with StubOpenAI(first_token_delay=0) as server:
        yield server


@pytest.fixture
def client(stub: StubOpenAI) -> Iterator[OpenAI]:
    with OpenAI(base_url=stub.url, api_key="stub", max_retries=0) as made:
        yield made


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_chat_answer_has_everything_that_a_real_one_has(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask("Hello there"))
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == "gpt-5-mini-2025-08-07"
    assert answer.system_fingerprint.startswith("fp_")
    assert answer.service_tier == "default"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == "This is the stub model's answer to: Hello there"
    assert answer._request_id.startswith("req_")


def test_tokens_are_words_and_add_up(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask("one two three"))
    assert answer.usage.prompt_tokens == 3 + 4 + 3
    assert answer.usage.completion_tokens == count_tokens(answer.choices[0].message.content)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_trigger_words_add_cached_and_reasoning_tokens(client: OpenAI) -> None:
    plain = client.chat.completions.create(model=MODEL, messages=ask("a b"))
    answer = client.chat.completions.create(model=MODEL, messages=ask("TRIGGER_CACHED TRIGGER_REASONING"))
    assert answer.usage.prompt_tokens_details.cached_tokens == CACHED_TOKENS
    assert answer.usage.prompt_tokens == plain.usage.prompt_tokens + CACHED_TOKENS
    assert answer.usage.completion_tokens_details.reasoning_tokens == REASONING_TOKENS
    assert answer.usage.completion_tokens == plain.usage.completion_tokens + REASONING_TOKENS


def test_equal_runs_give_equal_answers_and_calls_have_ids_of_their_own() -> None:
    seen = []
    for _ in range(2):
        with StubOpenAI() as stub, OpenAI(base_url=stub.url, api_key="stub") as client:
            seen.append([client.chat.completions.create(model=MODEL, messages=ask("Hi")).to_json() for _ in range(2)])
    assert seen[0] == seen[1]
    assert json.loads(seen[0][0])["id"] != json.loads(seen[0][1])["id"]


def test_n_gives_that_many_choices_and_counts_their_tokens(client: OpenAI) -> None:
    one = client.chat.completions.create(model=MODEL, messages=ask("Hi"))
    three = client.chat.completions.create(model=MODEL, messages=ask("Hi"), n=3)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens


def test_a_token_limit_cuts_the_text(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask("Hi"), max_completion_tokens=3)
    assert answer.choices[0].message.content == "This is the"
    assert answer.choices[0].finish_reason == "length"


def test_a_user_message_with_tools_gives_a_tool_call_and_its_result_a_text(client: OpenAI) -> None:
    messages = ask("How is the weather in Rome?")
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS)
    [call] = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    assert first.choices[0].message.content is None
    assert call.id.startswith("call_")
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Rome", "unit": "celsius"}
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"},
    ]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS)
    assert second.choices[0].message.content == "Here is what I found: 18 degrees"


def test_two_cities_give_two_parallel_calls_unless_that_is_off(client: OpenAI) -> None:
    messages = ask("Compare Vienna and Oslo")
    both = client.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS)
    one = client.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS, parallel_tool_calls=False)
    cities = [json.loads(call.function.arguments)["city"] for call in both.choices[0].message.tool_calls]
    assert cities == ["Vienna", "Oslo"]
    assert len({call.id for call in both.choices[0].message.tool_calls}) == 2
    assert len(one.choices[0].message.tool_calls) == 1


def test_tool_choice_none_gives_text_and_a_named_tool_is_called(client: OpenAI) -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    none = client.chat.completions.create(model=MODEL, messages=ask("Hi"), tools=CHAT_TOOLS, tool_choice="none")
    named = client.chat.completions.create(
        model=MODEL,
        messages=ask("Hi"),
        tools=[*CHAT_TOOLS, other],
        tool_choice={"type": "function", "function": {"name": "other"}},
    )
    assert none.choices[0].message.tool_calls is None
    assert [call.function.name for call in named.choices[0].message.tool_calls] == ["other"]


def test_structured_output_fits_the_schema(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=ask("A trip to Lisbon"), response_format=Trip)
    trip = answer.choices[0].message.parsed
    assert trip.stops[0].city == "Lisbon"
    assert isinstance(trip.budget, float)


def test_json_mode_gives_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask("Hi"), response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_stream_gives_the_same_text_in_pieces(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ask("Hello there"))
    with client.chat.completions.create(model=MODEL, messages=ask("Hello there"), stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert len(chunks) > 4
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_usage_when_asked_to(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ask("Hi"))
    with client.chat.completions.create(
        model=MODEL, messages=ask("Hi"), stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_tool_calls_stream_in_pieces_that_the_sdk_puts_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=ask("Compare Vienna and Oslo"), tools=CHAT_TOOLS) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Vienna", "Oslo"]
    assert final.choices[0].finish_reason == "tool_calls"


def test_the_async_client_gets_the_same(stub: StubOpenAI) -> None:
    async def run() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=stub.url, api_key="stub") as client:
            whole = await client.chat.completions.create(model=MODEL, messages=ask("Hi"))
            text = ""
            async with await client.chat.completions.create(model=MODEL, messages=ask("Hi"), stream=True) as stream:
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
            return whole.choices[0].message.content, text

    whole, streamed = asyncio.run(run())
    assert whole == streamed


def test_responses_give_text_and_usage(client: OpenAI) -> None:
    answer = client.responses.create(model=MODEL, instructions="Be brief", input="Hello TRIGGER_CACHED")
    assert answer.id.startswith("resp_")
    assert answer.status == "completed"
    assert answer.model == "gpt-5-mini-2025-08-07"
    assert answer.output_text == "This is the stub model's answer to: Hello TRIGGER_CACHED"
    assert answer.usage.input_tokens_details.cached_tokens == CACHED_TOKENS
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_responses_call_tools_and_use_their_results(client: OpenAI) -> None:
    items: list[object] = ask("Weather in Madrid?")
    first = client.responses.create(model=MODEL, input=items, tools=RESPONSE_TOOLS)
    [call] = first.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["city"] == "Madrid"
    items += [
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "25 degrees"},
    ]
    second = client.responses.create(model=MODEL, input=items, tools=RESPONSE_TOOLS)
    assert second.output_text == "Here is what I found: 25 degrees"


def test_responses_reason_when_told_to(client: OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="TRIGGER_REASONING")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.usage.output_tokens_details.reasoning_tokens == REASONING_TOKENS


def test_responses_that_are_cut_are_incomplete(client: OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="Hi", max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_structured_responses_fit_the_schema(client: OpenAI) -> None:
    answer = client.responses.parse(model=MODEL, input="A trip to Lisbon", text_format=Trip)
    assert answer.output_parsed.stops[0].city == "Lisbon"


@pytest.mark.parametrize("question", ["Hello TRIGGER_REASONING", "Compare Vienna and Oslo"])
def test_streamed_responses_end_with_what_a_plain_one_gives(client: OpenAI, question: str) -> None:
    tools = RESPONSE_TOOLS if "Vienna" in question else []
    plain = client.responses.create(model=MODEL, input=question, tools=tools)
    with client.responses.stream(model=MODEL, input=question, tools=tools) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert final.output_text == plain.output_text
    assert final.usage == plain.usage
    assert [item.type for item in final.output] == [item.type for item in plain.output]


def test_embeddings_are_unit_vectors_that_depend_on_the_text(client: OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["one two", "three"], dimensions=16)
    plain = client.embeddings.create(model="text-embedding-3-small", input="one two", dimensions=16, encoding_format="float")
    first, second = (item.embedding for item in answer.data)
    assert first == pytest.approx(plain.data[0].embedding)
    assert first != second
    assert sum(value * value for value in first) == pytest.approx(1.0)
    assert answer.usage.prompt_tokens == 3
    assert len(client.embeddings.create(model="text-embedding-3-small", input="x").data[0].embedding) == 1536


@pytest.mark.parametrize(
    ("trigger", "error", "code"),
    [
        ("TRIGGER_401", openai.AuthenticationError, "invalid_api_key"),
        ("TRIGGER_429", openai.RateLimitError, "rate_limit_exceeded"),
        ("TRIGGER_500", openai.InternalServerError, None),
    ],
)
def test_triggers_raise_the_sdks_errors(
    client: OpenAI, trigger: str, error: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(error) as chat:
        client.chat.completions.create(model=MODEL, messages=ask(trigger))
    with pytest.raises(error):
        client.responses.create(model=MODEL, input=trigger)
    with pytest.raises(error):
        client.embeddings.create(model=MODEL, input=trigger)
    assert chat.value.code == code


def test_a_model_that_does_not_exist_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="no-such-model", messages=ask("Hi"))


def test_the_bill_has_the_tokens_of_all_whole_answers(stub: StubOpenAI, client: OpenAI) -> None:
    chat = client.chat.completions.create(model=MODEL, messages=ask("Hi"), n=2)
    with client.chat.completions.create(model=MODEL, messages=ask("Hi"), stream=True) as stream:
        list(stream)
    response = client.responses.create(model=MODEL, input="Hi")
    embedding = client.embeddings.create(model=MODEL, input="one two")
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model=MODEL, messages=ask("TRIGGER_CUT"))
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=ask("TRIGGER_429"))
    plain = client.chat.completions.create(model=MODEL, messages=ask("Hi"))
    parts = (chat.usage, plain.usage, plain.usage, response.usage, embedding.usage)
    assert stub.tokens == sum(usage.total_tokens for usage in parts)


def test_the_sdk_tries_a_limited_call_again(stub: StubOpenAI) -> None:
    with (
        OpenAI(base_url=stub.url, api_key="stub", max_retries=1) as client,
        pytest.raises(openai.RateLimitError),
    ):
        client.chat.completions.create(model=MODEL, messages=ask("TRIGGER_429"))
    assert len(stub.requests) == 2


def test_a_cut_stream_gives_some_text_and_then_breaks(client: OpenAI) -> None:
    got = []

    def read() -> None:
        with client.chat.completions.create(model=MODEL, messages=ask("TRIGGER_CUT now"), stream=True) as stream:
            got.extend(chunk.choices[0].delta.content or "" for chunk in stream)

    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):
        read()
    assert "".join(got).startswith("This is")


def test_a_cut_answer_breaks_the_connection(client: OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model=MODEL, messages=ask("TRIGGER_CUT"))


def test_models_and_pings_are_answered(stub: StubOpenAI, client: OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert httpx.get(f"{stub.root}/ping/a/b", trust_env=False).json() == {"pong": "a/b"}


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("POST", "/v1/nothing", b"{}", 404),
        ("POST", "/v1/chat/completions", b"not json", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b'{"model": "x"}', 400),
    ],
)
def test_bad_requests_get_an_openai_error(stub: StubOpenAI, method: str, path: str, content: bytes | None, status: int) -> None:
    answer = httpx.request(method, stub.root + path, content=content, trust_env=False)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_requests_are_recorded_with_headers_and_body(stub: StubOpenAI, client: OpenAI) -> None:
    client.chat.completions.create(model=MODEL, messages=ask("Hi"), extra_headers={"Traceparent": "00-1-2-01"})
    [request] = stub.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["traceparent"] == "00-1-2-01"
    assert request.body["messages"] == ask("Hi")


def test_closing_ends_connections_that_clients_keep_open() -> None:
    stub = StubOpenAI()
    with OpenAI(base_url=stub.url, api_key="stub", max_retries=0) as client:
        with stub:
            client.chat.completions.create(model=MODEL, messages=ask("Hi"))
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(model=MODEL, messages=ask("Hi"))
    stub.close()


def test_closing_wakes_a_stream_that_waits_for_its_first_token() -> None:
    with StubOpenAI(first_token_delay=600) as stub, httpx.Client(trust_env=False) as client:
        body = {"model": MODEL, "messages": ask("Hi"), "stream": True}
        with client.stream("POST", f"{stub.url}/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            stub.close()


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 7}, 7),
        ({"type": "string", "default": "d"}, "d"),
        ({"type": ["null", "integer"], "minimum": 10}, 10),
        ({"type": "integer", "exclusiveMinimum": 10}, 11),
        ({"type": "number", "maximum": 1}, 1.0),
        ({"type": "number", "exclusiveMaximum": 2}, 1.0),
        ({"type": "string", "format": "date"}, "2025-08-07"),
        ({"type": "string", "minLength": 14}, "example text.."),
        ({"type": "string", "maxLength": 4}, "exam"),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"enum": ["x", "y"]}}}, "x"),
        ({"properties": {"query": {"type": "string"}}}, {"query": "What?"}),
    ],
)
def test_values_fit_their_schema(schema: dict[str, object], value: object) -> None:
    assert fill_schema(schema, question="What?") == value


def test_a_schema_that_contains_itself_ends() -> None:
    schema = {"$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}}, "$ref": "#/$defs/N"}
    assert "n" in fill_schema(schema)
