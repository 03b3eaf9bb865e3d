"""JSON text comes out, and goes in, the same with orjson and without it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_langfuse.dialects import json_text
from otel_langfuse.dialects.chat import as_content, as_parts_text, as_tools
from otel_langfuse.views.otlp import parse_logs, parse_traces
from support import cases
from support import load as recorded

pytest.importorskip("orjson")

# Any text, lone surrogates and control characters too; integers of any size; floats at all exponents, NaN and infinities.
TEXTS = st.text(st.characters(exclude_categories=()))
INTEGERS = (
    st.integers()
    | st.integers(min_value=2**63 - 2, max_value=2**64 + 2)
    | st.integers(min_value=-(2**63) - 2, max_value=-(2**63) + 2)
    | st.integers(min_value=10**300, max_value=10**320)
)
LEAVES = (
    st.none()
    | st.booleans()
    | INTEGERS
    | st.floats()
    | st.floats(min_value=1e-5, max_value=1e-3)
    | st.floats(min_value=1e14, max_value=1e17)
    | TEXTS
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
NUMBERS = st.floats() | st.floats(min_value=9e-5, max_value=2e-4) | st.floats(min_value=9e14, max_value=2e15)
WITHOUT_FLOATS = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)
# As texts may spell them: digits without end, exponents, signs of nothing.
DIGITS = st.text("0123456789", min_size=1, max_size=30)
SPELLED = st.builds(
    lambda sign, whole, rest, exponent: f"{sign}{whole.lstrip('0') or '0'}{rest}{exponent}",
    st.sampled_from(["", "-"]),
    DIGITS | st.just("9" * 310),
    st.just("") | DIGITS.map(lambda digits: "." + digits),
    st.just("") | st.builds(lambda e, n: f"{e}{n}", st.sampled_from(["e", "E", "e+", "e-"]), st.integers(0, 400)),
)


@contextmanager
def without_orjson() -> Iterator[None]:
    found = json_text._reads, json_text._writes
    json_text._reads = json_text._writes = None
    try:
        yield
    finally:
        json_text._reads, json_text._writes = found


def plainly_dumped(value: Any) -> str:
    with without_orjson():
        return json_text.dump(value)


def plainly_loaded(text: str) -> Any:
    with without_orjson():
        return json_text.load(text)


def same(one: Any, other: Any) -> bool:
    """Equal in types, in order and in the sign of zero, too."""
    return repr(one) == repr(other)


def nested(depth: int) -> Any:
    value: Any = "in the middle"
    for _ in range(depth):
        value = [value]
    return value


# --------------------------------------------------------------------------------------------- writing


@given(VALUES)
@example([2**64, -(2**63) - 1])
@example({"cost": 1e-07, "many": 1e16, "none": -0.0, "nan": math.nan, "inf": -math.inf})
@example({"text": "\ud800 and \x7f and \x1b and \u2028 and é"})
@example({1: "a key that is no text"})
def test_both_write_alike(value: Any) -> None:
    assert json_text.dump(value) == plainly_dumped(value)


@given(WITHOUT_FLOATS)
@example([2**64, -(2**63) - 1])
@example({"\ud800": ["\udfff", "\x00"]})
def test_what_holds_no_float_needs_no_look(value: Any) -> None:
    assert json_text.dump_texts(value) == json_text.dump(value) == plainly_dumped(value)


@pytest.mark.parametrize("depth", [200, 253, 254, 255, 300, 20_000])
def test_both_write_deep_nesting_alike(depth: int) -> None:
    value = nested(depth)
    assert json_text.dump(value) == json_text.dump_texts(value) == plainly_dumped(value)


@given(NUMBERS)
def test_both_write_a_float_alike(number: float) -> None:
    assert json_text.dump([number]) == plainly_dumped([number])


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = json_text.dump([value])
    plain = json.loads(text, parse_constant=lambda _: None)
    assert json_text.load(text) == plain


# --------------------------------------------------------------------------------------------- reading


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
@example({"a": -0.0, "b": 2**64, "c": -(2**63) - 1}, True, None)
@example(["\ud83d", "\ude00", "\ud83d\ude00"], True, None)
def test_both_read_alike_what_the_standard_library_writes(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps([value], ensure_ascii=ascii_only, indent=indent)
    assert same(json_text.load(text), plainly_loaded(text))


@given(SPELLED)
@example("-0")
@example("-0e5")
@example("18446744073709551616")
@example("-9223372036854775809")
@example("9223372036854775808.0")
@example("1e-400")
@example("9" * 5000)
@example("0." + "1" * 5000)
def test_both_read_a_number_alike(number: str) -> None:
    assert same(json_text.load(f"[{number}]"), plainly_loaded(f"[{number}]"))


@given(st.text(' \n\t{}[]",:1eE+-.NaInfity\\u0d8tru', max_size=40) | TEXTS.map(lambda text: f'["{text}"]'))
@example('{"a": 1, "b": 2, "a": 3}')
@example("[123456789012345678901234567890, 1e999, NaN, -Infinity]")
@example('["\\ud800"]')
@example('["\\ud800\\u0041"]')
@example('{"\\udfff": 1}')
@example('["\ud800"]')
@example('["a\x00b"]')
@example('["\\u0000"]')
@example("\ufeff[1]")
@example("[1]\x00")
@example("[1]\u00a0")
@example(" \n[1] \n")
@example("\n\t\r [1] \t\r\n")
@example("\t[1]")
@example("[1] 2")
@example('{"a":1}}')
@example('{"a":1,}')
@example("[01]")
@example("[1.]")
@example("\n5")
@example(' "text" ')
@example("[" * 100_000)
def test_reading_is_what_the_standard_library_reads(text: str) -> None:
    try:
        found = json.loads(text, parse_constant=lambda _: None, parse_float=json_text._finite_float)
    except (ValueError, RecursionError):
        found = None
    begins = text[:1] in ("{", "[", '"', " ", "\n")
    expected = found if begins and isinstance(found, (dict, list, str)) else None
    assert same(json_text.load(text), expected)
    assert same(plainly_loaded(text), expected)


@pytest.mark.parametrize("depth", [199, 200, 201, 400])
@pytest.mark.parametrize("around", ["[]", '{"a":}'])
def test_both_read_deep_nesting_alike(depth: int, around: str) -> None:
    opening, closing = around[:-1], around[-1]
    text = opening * depth + '"in the middle"' + closing * depth
    assert plainly_loaded(text) is not None
    assert same(json_text.load(text), plainly_loaded(text))


@pytest.mark.parametrize("depth", [1000, 1023, 1024, 1025])
def test_both_read_or_refuse_nesting_as_deep_as_the_stack_allows(depth: int) -> None:
    text = "[" * depth + "]" * depth
    assert (json_text.load(text) is None) is (plainly_loaded(text) is None)  # from Python 3.12 on it is read


def test_nesting_that_no_standard_library_reads_is_refused() -> None:
    text = "[" * 20_000 + "]" * 20_000
    assert json_text.load(text) is plainly_loaded(text) is None


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "tool"])},
        optional={
            "parts": st.lists(VALUES | st.fixed_dictionaries({"type": st.just("text"), "content": VALUES})),
            "content": VALUES,
        },
    ),
    min_size=1,
    max_size=3,
)


@given(MESSAGES)
@example([{"role": "user", "parts": [{"type": "tool_call", "id": "a", "name": "b", "arguments": {"n": 2**70}}]}])
@example([{"role": "user", "content": "one"}, {"role": "user", "content": [{"type": "new", "n": -(2**63) - 1}]}])
@example([{"role": "user", "content": nested(240)}])
def test_messages_are_the_same_with_either(found: list[Any]) -> None:
    text = json.dumps(found)
    with without_orjson():
        expected = as_content(text), as_parts_text(text), as_tools(text)
    assert same((as_content(text), as_parts_text(text), as_tools(text)), expected)


def test_all_recorded_texts_are_read_and_written_alike() -> None:
    """Every text attribute of every recording, and what comes out of it."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from texts(item)

    seen = 0
    for case in cases("*"):
        traces, logs = recorded(case)
        views = list(parse_traces(traces))
        for held in (*(view.attributes for view in views if view), *(record.body for record in parse_logs(logs or b""))):
            for text in texts(dict(held) if isinstance(held, dict) else held):
                value = json_text.load(text)
                assert same(value, plainly_loaded(text))
                if value is not None:
                    seen += 1
                    assert json_text.dump(value) == plainly_dumped(value)
    assert seen > 1000
