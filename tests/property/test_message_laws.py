"""Messages of any shape: never raise, never lose text, and come out in one shape."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from otel_langfuse.dialects.chat import as_content
from otel_langfuse.dialects.merge import merge, read
from otel_langfuse.langfuse.chat import input_text, output_text
from otel_langfuse.model import Facts, ObservationType, SpanView, Usage

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
