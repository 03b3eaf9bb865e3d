"""Spans for tests: built by hand, recorded, and as the SDK would have made them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.attributes import write
from otel_langfuse.model import LogView, SpanView, Value
from otel_langfuse.pipeline import Options, Pipeline, Row, SpanStart
from otel_langfuse.pipeline.replay import replay

CORPUS = Path(__file__).parent / "corpus" / "data"
TRACE = bytes(range(16))
CHAT: dict[str, Value] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.response.model": "gpt-4o-mini-2025-08-07",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 5,
    "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"hello"}]}]',
    "gen_ai.output.messages": '[{"role":"assistant","parts":[{"type":"text","content":"hi there"}]}]',
}


def span(
    number: int,
    parent: int | None = None,
    *,
    name: str = "",
    start: int = 1_000,
    end: int = 2_000,
    attributes: Mapping[str, Value] | None = None,
    scope: str = "app",
    trace: bytes = TRACE,
    **more: Any,
) -> SpanView:
    """A span view; ``number`` and ``parent`` become span ids, times are in milliseconds."""
    return SpanView(
        trace_id=trace,
        span_id=number.to_bytes(8, "big"),
        parent_id=parent.to_bytes(8, "big") if parent is not None else b"",
        parent_remote=more.pop("remote", False),
        name=name or f"span {number}",
        kind=more.pop("kind", 1),
        start_ns=start * 1_000_000,
        end_ns=end * 1_000_000,
        attributes=dict(attributes or {}),
        scope_name=scope,
        **more,
    )


def chat(number: int, parent: int | None = None, **more: Any) -> SpanView:
    """A generation in the current conventions."""
    attributes = {**CHAT, **more.pop("attributes", {})}
    return span(number, parent, attributes=attributes, scope=more.pop("scope", "genai.lib"), **more)


class Out:
    """What a pipeline wrote."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __call__(self, row: Row) -> None:
        self.rows.append(row)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The attributes of the one row of a span."""
        return write(self.row(number))

    def row(self, number: int) -> Row:
        (found,) = [row for row in self.rows if row.view.span_id == number.to_bytes(8, "big")]
        return found

    @property
    def parents(self) -> dict[int, int | None]:
        """Span number to its parent's, as written."""
        number = int.from_bytes
        return {number(row.view.span_id, "big"): number(row.parent_id, "big") if row.parent_id else None for row in self.rows}


def convert_all(views: Sequence[SpanView], records: Iterable[LogView] = (), **options: Any) -> Out:
    """Everything came in time."""
    out = Out()
    replay(Pipeline(out, Options(**options), counters=Counters()), views, records)
    return out


class Still:
    """A span that has just started: only what was set at its start can be seen."""

    def __init__(self, view: SpanView, visible: bool) -> None:
        self._view = view if visible else replace(view, attributes={})

    def look(self) -> SpanView | None:
        return self._view

    def peek(self) -> SpanView | None:
        return self._view

    def dropped(self, kept: Mapping[str, Value]) -> Mapping[str, Value]:
        return {}


def started(view: SpanView, *, visible: bool = True) -> SpanStart:
    """The start of a span; ``visible`` says whether its attributes are set from the beginning."""
    return SpanStart(view.trace_id, view.span_id, view.parent_id, view.start_ns, view.scope_name, Still(view, visible))


def load(case: Path) -> tuple[bytes, bytes | None]:
    """Traces and logs of a recorded case."""
    logs = case / "logs.pb"
    return (case / "traces.pb").read_bytes(), logs.read_bytes() if logs.exists() else None


def truth(case: Path) -> dict[str, Any]:
    """What was on the wire in a recorded case."""
    found: dict[str, Any] = json.loads((case / "truth.json").read_text())
    return found


def cases(*globs: str) -> list[Path]:
    """Recorded cases of libraries."""
    return sorted({path.parent for glob in globs for path in CORPUS.glob(f"{glob}/*/traces.pb")})


def case_id(case: Path) -> str:
    return f"{case.parent.name}/{case.name}"


def sdk_value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(sdk_value(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return {item.key: sdk_value(item.value) for item in value.kvlist_value.values}
    return getattr(value, kind) if kind else None


def sdk_attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: sdk_value(pair.value) for pair in pairs}


def sdk_spans(traces: bytes) -> list[ReadableSpan]:
    """A recorded request as the SDK's spans."""
    request = ExportTraceServiceRequest.FromString(traces)
    out = []
    for resource_spans in request.resource_spans:
        resource = Resource(sdk_attributes(resource_spans.resource.attributes))
        for scope_spans in resource_spans.scope_spans:
            scope = InstrumentationScope(scope_spans.scope.name, scope_spans.scope.version)
            out += [_sdk_span(item, scope, resource) for item in scope_spans.spans]
    return out


def _sdk_span(item: Any, scope: InstrumentationScope, resource: Resource) -> ReadableSpan:
    def context(span_id: bytes, remote: bool = False) -> SpanContext:
        return SpanContext(
            int.from_bytes(item.trace_id, "big"), int.from_bytes(span_id, "big"), remote, TraceFlags(TraceFlags.SAMPLED)
        )

    return ReadableSpan(
        name=item.name,
        context=context(item.span_id),
        parent=context(item.parent_span_id, bool(item.flags & 0x200)) if item.parent_span_id else None,
        resource=resource,
        attributes=sdk_attributes(item.attributes),
        events=[Event(e.name, sdk_attributes(e.attributes), e.time_unix_nano) for e in item.events],
        kind=SpanKind(item.kind - 1),
        status=Status(StatusCode(item.status.code), item.status.message or None),
        start_time=item.start_time_unix_nano,
        end_time=item.end_time_unix_nano,
        instrumentation_scope=scope,
    )
