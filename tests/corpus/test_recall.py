"""What is recalled of earlier spans never changes what is said of a later one."""

from __future__ import annotations

import gc
import json
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from otel_langfuse.dialects import recall, shapes
from otel_langfuse.dialects.merge import read
from otel_langfuse.dialects.shapes import shape_of
from otel_langfuse.langfuse.copy import LangfuseCopy
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.model import EventView, SpanView, Stock, Value
from otel_langfuse.views.otlp import parse_logs, parse_traces
from support import CHAT, case_id, cases, chat, convert_all, load, span

_OTHER_LETTERS = str.maketrans("abcdefghijklmnopqrstuvwxyz0123456789", "zabcdefghijklmnopqrstuvwxy9012345678")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recalled yet: what others have read would fill the tables, and a full table starts anew."""
    monkeypatch.setattr(shapes, "_shapes", {})
    monkeypatch.setattr(recall, "_held", 0)


def other(value: Value) -> Value:
    """Another value of the same kind; JSON text mostly stays JSON."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value.translate(_OTHER_LETTERS) if "{" not in value else value.replace("a", "b").replace("1", "2")
    if isinstance(value, (int, float)):
        return value + 1
    return value


def siblings(view: SpanView) -> Iterator[SpanView]:
    """The span, with one attribute after the other changed, emptied and gone."""
    for key, value in view.attributes.items():
        yield replace(view, attributes={**view.attributes, key: other(value)})
        yield replace(view, attributes={**view.attributes, key: ""})
    yield replace(view, attributes={key: other(value) for key, value in view.attributes.items()})
    yield replace(view, status_code=2, status_message="it failed")
    yield replace(view, events=())


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_a_span_among_its_siblings_reads_as_alone(case: Path) -> None:
    traces, _ = load(case)
    for view in parse_traces(traces):
        for sibling in siblings(view):
            assert read(sibling) == read(sibling, anew=True)
            assert read(view) == read(view, anew=True)


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_what_is_encoded_from_stock_is_what_a_draft_encodes(case: Path) -> None:
    traces, logs = load(case)
    rows = convert_all(list(parse_traces(traces)), list(parse_logs(logs)) if logs else []).rows
    copy = LangfuseCopy()
    for row in (*rows, *rows):
        done = copy.finish(row)
        if isinstance(done, EncodedSpan):
            assert done == copy.draft(row).encode()
        else:
            assert done.media


@pytest.mark.usefixtures("fresh")
def test_spans_of_one_instrumentation_share_their_stock() -> None:
    first = read(span(1, attributes=CHAT))
    second = read(span(2, attributes={**CHAT, "gen_ai.usage.input_tokens": 11}))
    assert first.stock is not None
    assert first.stock is second.stock
    assert replace(first, name="changed").stock is None


def test_an_attribute_that_another_one_covers_is_not_written_twice() -> None:
    attributes: dict[str, Value] = {**CHAT, "operation": "mine", "response_id": "also mine", "gen_ai.response.id": "id-1"}
    (row,) = convert_all([span(1, attributes=attributes)], []).rows
    copy = LangfuseCopy()
    assert copy.finish(row) == copy.draft(row).encode()
    assert copy.draft(row).attributes["langfuse.observation.metadata.operation"] == "mine"
    assert copy.draft(row).attributes["langfuse.observation.metadata.response_id"] == "also mine"


@pytest.mark.usefixtures("fresh")
def test_a_shape_whose_deciding_values_are_always_new_is_given_up() -> None:
    views = [span(1, attributes={**CHAT, "gen_ai.request.model": f"model-{number}", "given up": True}) for number in range(400)]
    for view in views:
        assert read(view).request_model == view.attributes["gen_ai.request.model"]
    assert shape_of(views[0]).memories["app"].useless


def rows_and_stock(given: list[dict[str, Value]]) -> list[Stock | None]:
    """The stock of a call with each of these attributes beside; what is encoded from it is what a draft encodes."""
    copy = LangfuseCopy()
    found: list[Stock | None] = []
    for number, beside in enumerate(given, 1):
        attributes: dict[str, Value] = {**CHAT, **beside}
        (row,) = convert_all([span(number, attributes=attributes)], []).rows
        assert copy.finish(row) == copy.draft(row).encode()
        for key, value in beside.items():
            shown = copy.draft(row).attributes.get(f"langfuse.observation.metadata.{key}")
            assert shown == (value if isinstance(value, str) else json.dumps(value))
        found.append(row.facts.stock)
    return found


@pytest.mark.usefixtures("fresh")
def test_what_no_reader_takes_is_shared_where_it_stays_and_taken_anew_where_it_varies() -> None:
    beside: list[dict[str, Value]] = [
        {
            "a.request": f"request-{number}",
            "b.region": "eu",
            "c.step": number,
            "d.tenant": "t-1",
            "e.host": f"host-{number % 3}",
        }
        for number in range(60)
    ]
    *_, before, last = rows_and_stock(beside)
    assert before is not None
    assert last is not None
    assert dict(last.steady) == {"b.region": "eu", "d.tenant": "t-1", "e.host": "host-2"}
    assert [stock is last for stock in rows_and_stock(beside)[-3:]] == [False, False, True]  # one for each host
    assert set(before.loose) - set(before.steady) >= {"a.request", "c.step"}


@pytest.mark.usefixtures("fresh")
def test_many_attributes_of_a_few_values_each_are_recalled_all_the_same() -> None:
    choose = random.Random(1)
    beside: list[dict[str, Value]] = [{f"flag.{key}": choose.random() < 0.5 for key in range(12)} for _ in range(300)]
    *_, before, last = rows_and_stock(beside)
    assert last is not None
    assert before is last
    assert not last.steady


def test_metadata_that_keeps_being_new_is_looked_up_no_more() -> None:
    copy = LangfuseCopy()
    for number in range(1, 1500):
        beside: dict[str, Value] = {f"new.{key}": f"{key}-{number}" for key in range(10)}
        (row,) = convert_all([span(number, attributes={**CHAT, **beside})], []).rows
        copy.finish(row)
    known = copy._key_values._keys
    kinds = {known[f"langfuse.observation.metadata.new.{key}"].kind for key in range(10)}
    assert kinds == {None}


@pytest.mark.usefixtures("fresh")
def test_a_large_attribute_does_not_empty_what_others_remember() -> None:
    views = [span(number, attributes={**CHAT, "kept.beside": "x"}) for number in range(1, 4)]
    before = [read(view).stock for view in views][-1]
    for number in range(30):
        read(span(1, attributes={**CHAT, f"large.{number}": "y" * 1_000_000}))
    again = read(span(9, attributes={**CHAT, "kept.beside": "x"})).stock
    assert before is not None
    assert again is before


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "beside",
    [
        {"a.text": "long " * 100_000},
        {f"text.{number}": f"{number:0150}" for number in range(60)},
        {"a.map": {"b": [1, 2.5, None]}, "a.list": ["x", "y"], "a.none": None, "a.empty": ""},
    ],
    ids=["long", "many", "structured"],
)
def test_large_and_odd_attributes_that_no_reader_takes(beside: dict[str, Value]) -> None:
    views = [span(number, attributes={**CHAT, **beside}) for number in range(1, 30)]
    for view in views:
        assert read(view) == read(view, anew=True)
    first, last = (read(view).stock for view in views[-2:])
    assert last is not None
    assert first is last


@pytest.mark.usefixtures("fresh")
def test_values_of_somebodys_own_type_do_not_keep_a_call_from_being_recalled() -> None:
    class Text(str):
        __slots__ = ()

    views = [span(number, attributes={**CHAT, "own.type": Text("x")}) for number in range(1, 10)]
    first, last = [read(view).stock for view in views][-2:]
    assert last is not None
    assert first is last
    assert "own.type" not in last.steady


@pytest.mark.parametrize(
    "keys",
    [
        ("traceloop.association.properties.user_id", "user.id"),
        ("traceloop.association.properties.session_id", "session.id"),
        ("traceloop.association.properties.thread_id", "gen_ai.conversation.id"),
        ("traceloop.entity.output", "gen_ai.tool.call.result"),
        ("user.id", "enduser.id"),
    ],
)
def test_where_two_keys_say_one_thing_the_readers_say_which_holds(keys: tuple[str, str]) -> None:
    first, second = keys
    for values in (("a", "a"), ("a", "b"), ("c", "b"), ("c", "")):
        view = span(1, attributes={**CHAT, first: values[0], second: values[1]})
        assert read(view) == read(view, anew=True)
        labelled = span(1, attributes={first: values[0], second: values[1], "traceloop.span.kind": "task"})
        assert read(labelled) == read(labelled, anew=True)


def test_counts_that_two_keys_give_are_the_readers_to_choose() -> None:
    keys = ("gen_ai.usage.prompt_tokens", "gen_ai.usage.input_tokens")
    for values in ((10, 10), (110, 10), (10, 110)):
        for label in ("traceloop.workflow.name", "gen_ai.system", "llm.is_streaming"):
            view = span(1, attributes={**dict(zip(keys, values, strict=True)), "gen_ai.request.model": "m", label: "x"})
            assert read(view) == read(view, anew=True)


def test_a_first_token_after_no_time_at_all_counts() -> None:
    view = span(1, attributes={**CHAT, "traceloop.workflow.name": "w", "gen_ai.response.time_to_first_chunk": 0.0})
    assert read(view).first_token_ns == view.start_ns
    assert read(view, anew=True).first_token_ns == view.start_ns


def test_what_is_remembered_is_bounded_in_bytes() -> None:
    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = held()
        for shape in range(200):
            for number in range(40):
                given = {**CHAT, f"gen_ai.request.shape_{shape}": f"{number:03500}", "gen_ai.request.again": number % 2}
                read(span(1, attributes=given))
        for number in range(300):
            read(span(1, attributes=CHAT, events=(EventView(f"{number:0100000}", 1, {}),)))
            convert_all([span(1, name=f"GET {number:0100000}", kind=2), chat(2, 1)])
        assert held() - before < 24 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_text_of_another_type_is_looked_through_for_media() -> None:
    class Text(str):
        __slots__ = ()

    image = "data:image/png;base64," + "QUJD" * 40_000
    (row,) = convert_all([chat(1, attributes={"app.screenshot": Text(image)})]).rows
    assert not isinstance(LangfuseCopy().finish(row), EncodedSpan)


def test_deciding_values_that_are_equal_but_of_another_type_are_told_apart() -> None:
    for given in (1, True, 1.0, "1", [1], [True]):
        view = span(1, attributes={**CHAT, "gen_ai.request.flag": given})
        assert read(view).parameters["flag"] == given
        assert type(read(view).parameters["flag"]) is type(given)
