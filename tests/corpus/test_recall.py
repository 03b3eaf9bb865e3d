"""What is recalled of earlier spans never changes what is said of a later one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from otel_langfuse.dialects.merge import read
from otel_langfuse.dialects.shapes import shape_of
from otel_langfuse.langfuse.copy import LangfuseCopy
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.model import SpanView, Value
from otel_langfuse.views.otlp import parse_logs, parse_traces
from support import CHAT, case_id, cases, convert_all, load, span

_OTHER_LETTERS = str.maketrans("abcdefghijklmnopqrstuvwxyz0123456789", "zabcdefghijklmnopqrstuvwxy9012345678")


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


def test_a_shape_whose_deciding_values_are_always_new_is_given_up() -> None:
    views = [span(1, attributes={**CHAT, "gen_ai.request.model": f"model-{number}", "given up": True}) for number in range(400)]
    for view in views:
        assert read(view).request_model == view.attributes["gen_ai.request.model"]
    assert shape_of(views[0]).memories["app"].useless


def test_deciding_values_that_are_equal_but_of_another_type_are_told_apart() -> None:
    for given in (1, True, 1.0, "1", [1], [True]):
        view = span(1, attributes={**CHAT, "gen_ai.request.flag": given})
        assert read(view).parameters["flag"] == given
        assert type(read(view).parameters["flag"]) is type(given)
