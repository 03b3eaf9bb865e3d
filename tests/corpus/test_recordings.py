"""Recordings of real instrumentations: two roads give one answer, and the answer is the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_langfuse.convert import convert, convert_views
from otel_langfuse.dialects.merge import DIALECTS, may_be_genai
from otel_langfuse.dialects.shapes import shape_of
from otel_langfuse.views.otlp import parse_logs, parse_traces
from otel_langfuse.views.sdk import span_view
from support import case_id, cases, load, sdk_spans, truth


def observations(payload: bytes) -> list[dict[str, Any]]:
    request = ExportTraceServiceRequest.FromString(payload)
    out = []
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                attributes: dict[str, Any] = {}
                for pair in span.attributes:
                    kind = pair.value.WhichOneof("value")
                    attributes[pair.key] = (
                        [item.string_value for item in pair.value.array_value.values]
                        if kind == "array_value"
                        else getattr(pair.value, kind)
                    )
                out.append({"span": span, "id": span.span_id, "parent": span.parent_span_id, **attributes})
    return out


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_the_sdk_view_and_the_otlp_view_are_equal(case: Path) -> None:
    traces, _ = load(case)
    assert [span_view(span) for span in sdk_spans(traces)] == list(parse_traces(traces))


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_both_roads_give_the_same_bytes(case: Path) -> None:
    traces, logs = load(case)
    views = [view for span in sdk_spans(traces) if (view := span_view(span)) is not None]
    by_sdk = convert_views(views, list(parse_logs(logs)) if logs else [])
    assert observations(by_sdk.payload) == observations(convert(traces, logs).payload)


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_each_trace_has_one_root_and_no_orphan_and_no_span_twice(case: Path) -> None:
    by_trace: dict[bytes, list[dict[str, Any]]] = {}
    for row in observations(convert(*load(case)).payload):
        by_trace.setdefault(row["span"].trace_id, []).append(row)
    for rows in by_trace.values():
        ids = [row["id"] for row in rows]
        assert len(ids) == len(set(ids))
        assert [row["parent"] for row in rows].count(b"") == 1
        assert all(row["parent"] in ids for row in rows if row["parent"])


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_a_span_that_is_not_asked_about_has_nothing_to_say(case: Path) -> None:
    """The quick check before reading hides no span from any reader."""
    for view in parse_traces(load(case)[0]):
        assert view is not None
        if not may_be_genai(view):
            assert {dialect.name for dialect in DIALECTS if dialect.read(view) is not None} <= {"any span"}
        for dialect in DIALECTS:
            told = dialect.hints.allow(view.scope_name, shape_of(view)) or (dialect.hints.events and view.events)
            assert told or dialect.read(view) is None, dialect.name


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_only_explicit_keys_leave(case: Path) -> None:
    for row in observations(convert(*load(case)).payload):
        assert not [key for key in row if key not in ("span", "id", "parent") and not key.startswith("langfuse.")]
        assert not row["span"].events


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_converting_the_output_again_changes_nothing(case: Path) -> None:
    def shown(payload: bytes) -> dict[Any, Any]:
        return {
            (row["span"].trace_id, row["id"]): {key: value for key, value in row.items() if key != "span"}
            | {"name": row["span"].name}
            for row in observations(payload)
        }

    once = convert(*load(case)).payload
    assert shown(convert(once).payload) == shown(once)


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_calls_are_shown_as_they_were(case: Path) -> None:
    """One generation per recorded call that the telemetry names, with the model, tokens and answer of the wire."""
    rows = observations(convert(*load(case)).payload)
    calls = [row for row in rows if "langfuse.observation.metadata.duplicate_of" not in row]
    known = {row.get("langfuse.observation.metadata.response_id"): row for row in calls}
    for call in truth(case)["calls"]:
        row = known.get(call["response_id"]) if call["response_id"] else None
        if row is None:
            continue
        assert row["langfuse.observation.type"] == ("embedding" if call["kind"] == "embeddings" else "generation")
        assert row["langfuse.observation.model.name"].split("/")[-1] in (call["response_model"], call["request_model"])
        usage = json.loads(row.get("langfuse.observation.usage_details", "{}"))
        if usage and call["usage"]:
            assert usage["total"] == call["usage"]["input_total"] + call["usage"]["output_total"]
            assert usage["total"] == sum(count for key, count in usage.items() if key != "total")
        shown = row.get("langfuse.observation.output")
        texts = [choice["text"] for choice in call["output"] if choice["text"]]
        if shown and texts and not call["aborted"]:
            assert all(json.dumps(text, ensure_ascii=False)[1:-1] in shown for text in texts)
        for choice in call["output"] if shown else ():
            for tool_call in choice["tool_calls"]:
                assert tool_call["name"] in [made["function"]["name"] for made in _tool_calls(shown)]


def _tool_calls(output: str) -> list[dict[str, Any]]:
    parsed = json.loads(output)
    messages = parsed if isinstance(parsed, list) else [parsed]
    return [call for message in messages for call in message.get("tool_calls", ())]
