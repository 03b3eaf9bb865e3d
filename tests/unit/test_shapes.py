"""What is remembered of a span's keys changes nothing of what is read from their values."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from otel_langfuse.dialects import shapes
from otel_langfuse.dialects.merge import DIALECTS, Dialect, read
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Facts, SpanView, Value
from otel_langfuse.pipeline import Pipeline, Row, SpanStart


def view(attributes: Mapping[str, Value], scope: str = "app", span_id: bytes = b"12345678", parent: bytes = b"") -> SpanView:
    return SpanView(b"1234567890123456", span_id, parent, False, "span", 1, 1, 2, attributes, scope_name=scope)


def applied(dialect: Dialect, attributes: Mapping[str, Value], *, remembered: bool) -> Facts:
    facts = Facts()
    dialect.table.apply(attributes, facts, shape_of(view(attributes)) if remembered else None)
    return facts


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_table_reads_the_same_with_a_shape(dialect: Dialect) -> None:
    keys = [row.key.replace("*", "some.name") for row in dialect.table.rows]
    for value in ("1", "", None, "[]", 2, ["a"], '{"a": 1}'):
        attributes: dict[str, Value] = dict.fromkeys((*keys, "of.nobody"), value)
        assert applied(dialect, attributes, remembered=True) == applied(dialect, attributes, remembered=False)


def test_values_are_not_remembered() -> None:
    empty = read(view({"gen_ai.operation.name": "chat", "gen_ai.request.model": ""}))
    full = read(view({"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}))
    assert (empty.request_model, full.request_model) == (None, "gpt-4o")


def test_the_same_keys_in_another_scope_are_read_by_others() -> None:
    attributes: dict[str, Value] = {"gen_ai.request.model": "gpt-4o"}
    assert [read(view(attributes, scope)).dialect for scope in ("litellm", "app", "litellm")] == [
        "litellm",
        "otel-genai",
        "litellm",
    ]


def test_shapes_do_not_pile_up() -> None:
    for number in range(2000):
        shape_of(view({f"key.{number}": 1}))
    assert len(shapes._shapes) <= 512


def test_scopes_do_not_pile_up() -> None:
    shape = shape_of(view({"a": 1}))
    for number in range(1000):
        shape.choose(f"scope {number}", False, ((Hints(always=True), lambda _: None),))
    assert len(shape.readers) <= 64


class Live:
    """An open span that counts how often it is looked at."""

    def __init__(self, shown: SpanView) -> None:
        self.shown = shown
        self.looks = 0

    def look(self) -> SpanView | None:
        self.looks += 1
        return self.shown

    def peek(self) -> SpanView | None:
        return self.shown

    def dropped(self, kept: Mapping[str, Value]) -> Mapping[str, Value]:
        return {}


@pytest.mark.parametrize(("ahead", "looks"), [(False, [1, 2, 3, 4]), (True, [1, 1, 2, 2])])
def test_an_open_span_is_looked_at_once_for_each_that_ends_below_or_for_all_that_are_read_ahead(
    ahead: bool, looks: list[int]
) -> None:
    rows: list[Row] = []
    pipeline = Pipeline(rows.append)
    live = Live(view({"http.route": "/ask"}, span_id=b"entry..."))
    pipeline.started(SpanStart(b"1234567890123456", b"entry...", b"", 1, "http", live))
    found: list[int] = []
    for numbers in ((1, 2), (3, 4)):
        calls = [view({"gen_ai.operation.name": "chat"}, span_id=b"call...%d" % n, parent=b"entry...") for n in numbers]
        if ahead:
            pipeline.read_ahead(calls)
        for call in calls:
            pipeline.ended(call)
            found.append(live.looks)
    assert found == looks
    assert [row.facts.operation for row in rows] == ["chat"] * 4


@pytest.mark.parametrize("changed", [False, True])
def test_an_entry_span_shows_what_it_said_at_its_end_whatever_a_look_found(changed: bool) -> None:
    rows: list[Row] = []
    pipeline = Pipeline(rows.append)
    agent: dict[str, Value] = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": "before"}
    live = Live(view(agent, span_id=b"entry..."))  # a look at a span that has just ended, before its turn
    pipeline.started(SpanStart(b"1234567890123456", b"entry...", b"", 1, "app", live))
    pipeline.ended(view({"gen_ai.operation.name": "chat"}, span_id=b"call....", parent=b"entry..."))
    ended = view(agent | {"gen_ai.provider.name": "after"} if changed else dict(agent), span_id=b"entry...")
    pipeline.ended(ended)
    assert rows[-1].facts == read(ended, anew=True)
    assert rows[-1].facts.provider == ("after" if changed else "before")
