"""Laws of masking, for any text and any JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_langfuse.pipeline.masking import FAILED, Masker

MASKER = Masker.from_settings(["all"])
assert MASKER is not None

SECRETS = [
    "bob@example.com",
    "4111111111111111",
    "4111 1111 1111 1111",
    "+49 151 23456789",
    "sk-lf-1234-5678",
    "Bearer abc123def",
    "DE89370400440532013000",
    "10.0.0.1",
    "fe80::1",
]
GLUE = [
    "\n",
    "\\",
    '"',
    "/",
    "\t",
    "\b",
    "é",
    "n",
    "u0041",
    "u00",
    "b",
    " ",
    "-",
    ".",
    "+",
    ",",
    ":",
    "[",
    "{",
    "]",
    "}",
]
GLUE += ["0", "4", "@", "\x00", "\u2028", "\U0001f600", "[email]", "sk-", "%3D"]
texts = st.lists(st.sampled_from(SECRETS + GLUE) | st.text(max_size=5), max_size=8).map("".join)
numbers = st.integers() | st.sampled_from([4111111111111111, -4111111111111111]) | st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
containers = st.lists(values, max_size=4) | st.dictionaries(texts, values, max_size=4)


def mask(text: str) -> str:
    assert MASKER is not None
    return MASKER.mask_text(text, "input")


def shape(value: object) -> object:
    """What is left of a value when texts and numbers are the same to us."""
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, dict):
        return "object"
    return "text or number" if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value


@settings(max_examples=300, deadline=None)
@given(value=containers | texts, ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 2]))
def test_json_stays_json_of_the_same_shape(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert shape(json.loads(mask(text))) == shape(value)


@settings(max_examples=200, deadline=None)
@given(value=texts, ascii_only=st.booleans())
def test_json_in_json_stays_json(value: str, ascii_only: bool) -> None:
    text = json.dumps({"arguments": json.dumps({"x": value}, ensure_ascii=ascii_only)}, ensure_ascii=ascii_only)
    assert isinstance(json.loads(json.loads(mask(text))["arguments"])["x"], str)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_masking_again_changes_nothing(text: str) -> None:
    for given_text in (text, json.dumps(text), json.dumps([text], ensure_ascii=False)):
        once = mask(given_text)
        assert mask(once) == once


@pytest.mark.parametrize("secret", SECRETS)
@settings(max_examples=40, deadline=None)
@given(before=texts, after=texts)
def test_a_secret_between_blanks_is_found(secret: str, before: str, after: str) -> None:
    # A line break ends every kind of value, which a blank does not (card numbers have blanks).
    text = f"{before}\n{secret}\n{after}"
    for given_text in (text, json.dumps(text), json.dumps({"a": [text]}, ensure_ascii=False)):
        got = mask(given_text)
        assert got != FAILED
        assert f"\n{secret}\n" not in got
        assert f"\\n{secret}\\n" not in got


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789", min_size=12, max_size=18).filter(lambda digits: digits.strip("0")), st.data())
def test_every_card_number_is_found(digits: str, data: st.DataObject) -> None:
    total = sum(int(d) if i % 2 else int(d) * 2 - 9 * (int(d) > 4) for i, d in enumerate(reversed(digits)))
    number = digits + str(-total % 10)
    separator = data.draw(st.sampled_from(["", " ", "-"]))
    size = data.draw(st.integers(1, 6))
    written = separator.join(number[i : i + size] for i in range(0, len(number), size))
    cards = Masker.from_settings(["card"])
    assert cards is not None
    assert cards.mask_text(f"card: {written}.", "input") == "card: [card]."
