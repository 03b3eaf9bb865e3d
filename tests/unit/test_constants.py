"""Texts that recur are converted once, and what is kept is bounded."""

from __future__ import annotations

import gc
import weakref

from otel_langfuse.dialects.constants import Constant
from otel_langfuse.model import Value


class Made:
    def __init__(self, value: Value) -> None:
        self.value = value


def test_a_text_is_converted_once() -> None:
    take = Constant(Made)
    text = "be brief"
    assert take(text) is take("".join(["be ", "brief"]))
    assert take(text).value == text


def test_what_is_no_text_is_converted_each_time() -> None:
    take = Constant(Made)
    value: Value = [{"content": "x"}]
    assert take(value) is not take(value)


def test_long_texts_are_not_kept() -> None:
    take = Constant(Made)
    made = weakref.ref(take("x" * 65_537))
    gc.collect()
    assert made() is None


def test_texts_that_keep_being_new_push_each_other_out() -> None:
    take = Constant(Made)
    by_number = [weakref.ref(take(f"text {number}")) for number in range(1_000)]
    gc.collect()
    assert sum(made() is not None for made in by_number) <= 64
    by_size = [weakref.ref(take(f"{number:065536}")) for number in range(100)]
    gc.collect()
    assert sum(made() is not None for made in by_size) <= 15
