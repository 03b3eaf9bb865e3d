"""JSON text comes out the same with orjson and without it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_langfuse.dialects import json_text

pytest.importorskip("orjson")

# Any text, lone surrogates and control characters too; integers of any size; floats at all exponents, NaN and infinities.
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63 - 2, max_value=2**64 + 2)
    | st.floats()
    | st.floats(min_value=1e-5, max_value=1e-3)
    | st.floats(min_value=1e14, max_value=1e17)
    | st.text(st.characters(exclude_categories=()))
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
NUMBERS = st.floats() | st.floats(min_value=9e-5, max_value=2e-4) | st.floats(min_value=9e14, max_value=2e15)


def without_orjson(value: Any) -> str:
    fast, json_text._fast = json_text._fast, None
    try:
        return json_text.dump(value)
    finally:
        json_text._fast = fast


def nested(depth: int) -> Any:
    value: Any = "in the middle"
    for _ in range(depth):
        value = [value]
    return value


@given(VALUES)
@example([2**64, -(2**63) - 1])
@example({"cost": 1e-07, "many": 1e16, "none": -0.0, "nan": math.nan, "inf": -math.inf})
@example({"text": "\ud800 and \x7f and \x1b and \u2028 and é"})
@example({1: "a key that is no text"})
def test_both_write_alike(value: Any) -> None:
    assert json_text.dump(value) == without_orjson(value)


@pytest.mark.parametrize("depth", [200, 253, 254, 255, 300, 20_000])
def test_both_write_deep_nesting_alike(depth: int) -> None:
    value = nested(depth)
    assert json_text.dump(value) == without_orjson(value)


@given(NUMBERS)
def test_both_write_a_float_alike(number: float) -> None:
    assert json_text.dump([number]) == without_orjson([number])


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = json_text.dump([value])
    plain = json.loads(text, parse_constant=lambda _: None)
    assert json_text.load(text) == plain


@given(st.text(' \n\t{}[]",:1eE+-.NaInfity\\u0d8tru', max_size=40))
@example('{"a": 1, "a": 2}')
@example("[123456789012345678901234567890, 1e999, NaN, -Infinity]")
@example('["\\ud800"]')
@example(" \n[1] \n")
@example("[1] 2")
@example('{"a":1}}')
@example("\n5")
@example("[" * 100_000)
def test_reading_is_what_the_standard_library_reads(text: str) -> None:
    try:
        found = json.loads(text, parse_constant=lambda _: None, parse_float=json_text._finite_float)
    except (ValueError, RecursionError):
        found = None
    begins = text[:1] in ("{", "[", '"', " ", "\n")
    expected = found if begins and isinstance(found, (dict, list, str)) else None
    assert json_text.load(text) == expected
