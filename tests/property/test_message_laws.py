"""Messages of any shape: never raise, never lose text, and come out in one shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_langfuse.dialects import chat
from otel_langfuse.dialects.chat import as_content, as_parts_text
from otel_langfuse.dialects.merge import merge, read
from otel_langfuse.dialects.parts import as_parts
from otel_langfuse.dialects.reading import load
from otel_langfuse.langfuse.chat import input_text, lifted_text, output_text
from otel_langfuse.model import Blob, Chat, Facts, Message, ObservationType, SpanView, Text, Usage
from otel_langfuse.pipeline.root import Lifted

words = st.text(min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "content": text}, words),
    st.builds(lambda text: {"type": "reasoning", "content": text}, words),
    st.builds(lambda name, args: {"type": "tool_call", "id": "c", "name": name, "arguments": args}, words, json_values),
    st.builds(lambda answer: {"type": "tool_call_response", "id": "c", "response": answer}, words),
    st.builds(lambda value: {"type": "something new", "value": value}, json_values),
)
messages = st.lists(
    st.one_of(
        st.builds(lambda role, found: {"role": role, "parts": found}, words, st.lists(parts, max_size=4)),
        st.builds(lambda role, text: {"role": role, "content": text}, words, words),
    ),
    min_size=1,
    max_size=4,
)


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


def spoken(found: list[dict[str, Any]]) -> list[str]:
    """The texts that a person wrote or a model answered."""
    out = []
    for message in found:
        out += texts(message.get("content") or [])
        for part in message.get("parts", ()):
            out += texts(part.get("content") or []) + texts(part.get("response") or [])
    return out


@given(messages)
def test_no_text_is_lost(found: list[dict[str, Any]]) -> None:
    shown = input_text(as_content(json.dumps(found)), None, None)
    if shown is None:
        assert not spoken(found)
        return
    everything = "\n".join(texts(json.loads(shown)))
    assert all(text in everything for text in spoken(found))


def listed(text: str) -> list[Any]:
    found = load(text)
    assert isinstance(found, list)
    return found


# Parts and messages of the most frequent shapes, and what is next to them: a key more or less, another type in its place.
odd_values = st.none() | st.just("") | st.just(0) | st.floats(allow_nan=False) | st.just(2**70) | words | json_values
odd_parts = st.dictionaries(
    st.sampled_from(["type", "content", "text", "id", "name", "arguments", "response"]),
    st.sampled_from(["text", "tool_call", "tool_call_response"]) | odd_values,
    max_size=5,
)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
roles = st.sampled_from(["user", "tool", "Model", "function", "", None, 7])
odd_calls = st.fixed_dictionaries(
    {
        "function": st.fixed_dictionaries({"name": odd_values, "arguments": odd_values}, optional={"more": odd_values})
        | odd_values
    },
    optional={"id": odd_values, "type": st.just("function") | odd_values, "index": odd_values},
)
odd_messages = st.dictionaries(
    st.sampled_from(["content", "parts", "finish_reason", "name", "tool_call_id", "tool_calls", "more"]),
    st.lists(parts | odd_parts | odd_calls, max_size=3) | odd_values,
    max_size=3,
)
odd_messages = st.builds(lambda role, found: {"role": role, **found}, roles, odd_messages)


@given(st.lists(messages.map(lambda found: found[0]) | odd_messages, min_size=1, max_size=3))
@example([{"role": "tool", "content": "an answer"}])
@example([{"role": "Function", "content": [{"type": "text", "text": "an answer"}]}])
@example([{"role": "Model", "parts": [{"type": "text", "content": ""}], "finish_reason": ""}])
@example([{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": "a"}])
@example([{"role": "assistant", "content": "", "tool_calls": [CALL]}])
@example([{"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": ""}]}])
@example([{"role": "assistant", "content": "one moment", "tool_calls": [CALL, CALL]}])
@example([{"role": "assistant", "content": "one moment", "tool_calls": []}])
@example([{"role": "tool", "tool_call_id": "", "content": "a"}, {"role": "tool", "name": "c", "content": "a"}])
@example([{"role": "user", "content": "cut off", "finish_reason": ""}])
@example([{"role": "user", "content": "with a name", "name": "Ada"}, {"role": "user"}, {"parts": []}])
@example([{"role": "assistant", "parts": [{"type": "tool_call", "id": "", "name": "f", "arguments": "{}"}]}])
@example([{"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": [{"type": "text", "text": "a"}]}]}])
def test_each_message_is_read_as_if_it_stood_alone(found: list[dict[str, Any]]) -> None:
    """Frequent shapes take a shorter way, which leads to the same place."""
    text = json.dumps(found)
    expected = tuple(chat.message(item) for item in listed(text))
    content = as_content(text)
    if content is None:
        assert not any(one.parts for one in expected)
    else:
        assert isinstance(content, Chat)
        assert repr(content.messages) == repr(expected)


@given(st.lists(parts | odd_parts, min_size=1, max_size=4))
def test_instructions_are_read_part_by_part(found: list[dict[str, Any]]) -> None:
    text = json.dumps(found)
    expected = tuple(part for item in listed(text) for part in as_parts(item))
    content = as_parts_text(text)
    assert repr(content) == repr(Chat((Message("system", expected),)) if expected else None)


@given(messages)
def test_what_the_entry_shows_is_the_message_as_its_own_row_shows_it(found: list[dict[str, Any]]) -> None:
    content = as_content(json.dumps(found))
    if not isinstance(content, Chat):
        return
    rows = json.loads(input_text(content, None, None) or "[]")
    last = Chat(content.messages[-1:])
    lifted = lifted_text(last)
    assert lifted is not None
    assert json.loads(lifted) == rows[-1]


tool_lists = st.none() | st.just([{"type": "function", "function": {"name": "f", "limit": 0.5}}])


@given(messages, messages, st.none() | st.just("Be brief."), tool_lists, st.booleans())
@example([{"role": "system", "content": "one"}], [{"role": "assistant", "content": "two"}], "Be brief.", None, False)
@example(
    [{"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "r"}] * 2}],
    [{"role": "a"}],
    None,
    None,
    True,
)
@example([{"role": "user", "content": "x" * 65_536}], [{"role": "assistant", "content": "x" * 65_530}], None, None, True)
@example([{"role": "user", "content": "\ud800"}], [{"role": "assistant", "content": "\ud800"}], "Be brief.", None, False)
def test_rows_are_the_same_whether_the_entry_shows_them_too(
    asked: list[dict[str, Any]], said: list[dict[str, Any]], brief: str | None, tools: Any, entry_first: bool
) -> None:
    def read_facts() -> Facts:
        return Facts(input=as_content(json.dumps(asked)), output=as_content(json.dumps(said)), system=as_parts_text(brief))

    def written(facts: Facts) -> tuple[str | None, ...]:
        return input_text(facts.input, facts.system, tools), output_text(facts.output), lifted_text(facts.input)

    def shown(lifted: Lifted) -> tuple[str | None, str | None]:
        return lifted_text(lifted.input), lifted_text(lifted.output)

    alone, facts, offered = read_facts(), read_facts(), Lifted()
    offered.offer(SpanView(b"t" * 16, b"s" * 8, b"", False, "n", 1, 1, 2, {}), facts)
    if entry_first:
        assert shown(offered) == shown(offered)
    assert written(facts) == written(alone)
    fresh = Lifted()
    fresh.offer(SpanView(b"t" * 16, b"s" * 8, b"", False, "n", 1, 1, 2, {}), read_facts())
    assert shown(offered) == shown(fresh)


def test_a_text_that_two_rows_show_is_written_once() -> None:
    facts = Facts(
        input=Chat((Message("user", (Text("question"),)),)),
        output=Chat((Message("assistant", (Text("answer"),)),)),
        system=as_parts_text("Be brief."),
    )
    offered = Lifted()
    offered.offer(SpanView(b"t" * 16, b"s" * 8, b"", False, "n", 1, 1, 2, {}), facts)
    assert input_text(facts.input, facts.system, None) == (
        '[{"role":"system","content":"Be brief."},{"role":"user","content":"question"}]'
    )
    assert lifted_text(offered.input) is lifted_text(offered.input)
    assert lifted_text(offered.input) == '{"role":"user","content":"question"}'
    assert lifted_text(offered.output) is output_text(facts.output)


@pytest.mark.parametrize("length", [1, 65_536 - 29, 65_536 - 28, 65_536, 65_537, 100_000])
def test_the_entry_shows_a_text_as_its_own_row_does_up_to_64_kib(length: int) -> None:
    content = Chat((Message("user", (Text("x" * length),)),))
    lifted, own = lifted_text(content), output_text(content)
    assert lifted is not None
    if length <= 65_536:
        assert lifted == own
    else:
        assert json.loads(lifted) == {"role": "user", "content": "x" * 65_536 + f" [cut: {length} characters]"}


@pytest.mark.parametrize(
    ("said", "shown"), [((Text("look"),), "look"), ((), "[media]"), ((Text("one"), Text("two")), "one\ntwo")]
)
def test_the_entry_shows_no_media_that_do_not_fit(said: tuple[Text, ...], shown: str) -> None:
    image = Blob("image/png", "image", "A" * 65_536)
    lifted = lifted_text(Chat((Message("user", (*said, image)),)))
    assert lifted is not None
    assert json.loads(lifted) == {"role": "user", "content": shown}
    small = lifted_text(Chat((Message("user", (*said, Blob("image/png", "image", "AAAA"))),)))
    assert small is not None
    assert "data:image/png;base64,AAAA" in small


@given(messages)
def test_converting_the_output_again_changes_nothing(found: list[dict[str, Any]]) -> None:
    once = input_text(as_content(json.dumps(found)), None, None)
    assert input_text(as_content(once), None, None) == once


@given(json_values | st.text() | st.binary())
def test_any_value_is_content_or_nothing(value: Any) -> None:
    for given_value in (value, json.dumps(value) if not isinstance(value, bytes) else value):
        content = as_content(given_value)
        for shown in (input_text(content, None, None), output_text(content)):
            assert shown is None or isinstance(shown, str)


attribute_keys = st.sampled_from(
    [
        "gen_ai.operation.name",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.usage.input_tokens",
        "gen_ai.request.temperature",
        "gen_ai.prompt.0.content",
        "gen_ai.prompt.0.role",
        "gen_ai.prompt.x.y",
        "gen_ai.prompt.0.content.deeper",
        "gen_ai.tool.definitions",
        "gen_ai.system_instructions",
        "llm.request.functions.0.name",
        "traceloop.span.kind",
        "traceloop.association.properties.a",
        "langfuse.observation.type",
        "langfuse.observation.usage_details",
        "langfuse.observation.cost_details",
        "langfuse.observation.model.parameters",
        "langfuse.observation.completion_start_time",
        "langfuse.trace.tags",
        "langfuse.observation.metadata",
        "error.type",
    ]
)


@given(st.dictionaries(attribute_keys, json_values | st.text() | st.binary(), max_size=8))
def test_reading_never_raises(attributes: dict[str, Any]) -> None:
    read(SpanView(b"t" * 16, b"s" * 8, b"", False, "n", 1, 1, 2, attributes))


def test_a_text_of_ten_megabytes_comes_through() -> None:
    text = "ü" * 5_000_000
    shown = input_text(as_content(json.dumps([{"role": "user", "content": text}])), None, None)
    assert shown is not None
    assert json.loads(shown) == [{"role": "user", "content": text}]


def test_nesting_beyond_the_parser_stays_text() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert input_text(as_content(deep), None, None) == deep


facts = st.builds(
    Facts,
    type=st.none() | st.sampled_from(list(ObservationType)),
    user=st.none() | words,
    request_model=st.none() | words,
    usage=st.none() | st.builds(Usage, input=st.integers(0, 9)),
    metadata=st.dictionaries(words, words, max_size=3),
    consumed=st.sets(words, max_size=3),
    recognised=st.booleans(),
)


@given(facts)
def test_merging_one_finding_changes_nothing(one: Facts) -> None:
    merged = merge([one])
    assert (merged.type, merged.user, merged.request_model, merged.usage) == (
        one.type, one.user, one.request_model, one.usage
    )  # fmt: skip
    assert (merged.metadata, merged.consumed, merged.recognised) == (one.metadata, one.consumed, one.recognised)


@given(facts, facts, facts)
def test_merging_is_associative_and_the_first_word_wins(one: Facts, two: Facts, three: Facts) -> None:
    left, right = merge([merge([one, two]), three]), merge([one, merge([two, three])])
    assert left == right
    assert left.user == (one.user or two.user or three.user)
    assert left.consumed == one.consumed | two.consumed | three.consumed
