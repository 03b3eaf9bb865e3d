"""What both receivers got, as rows: the spans that Tempo would store and the observations that Langfuse would show.

Cost: instrumentations send none. Langfuse works it out on arrival, from the price of each token bucket; ``PRICES``
does the same here for the demo's models, so that the drawing shows what Langfuse would.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

__all__ = ["PRICES", "Observation", "Row", "observe", "read_rows", "walk"]

# US dollars for a million tokens of each bucket, from OpenAI's list; names match their dated snapshots too.
PRICES: Mapping[str, Mapping[str, float]] = {
    "gpt-4o-mini": {"input": 0.15, "input_cached_tokens": 0.075, "output": 0.60, "output_reasoning_tokens": 0.60},
    "text-embedding-3-small": {"input": 0.02, "total": 0.02},
}
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One span as it was received; ids are in hex, an empty ``parent_id`` means none."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    scope: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]

    def text(self, key: str) -> str:
        """The attribute as text; empty when it is missing."""
        value = self.attributes.get(key)
        return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Observation:
    """What Langfuse shows of a row."""

    row: Row
    type: str
    model: str
    usage: Mapping[str, int]
    cost: float | None
    first_token_ms: float | None
    level: str
    user: str
    session: str

    @property
    def cached(self) -> int:
        """Input tokens that came from the provider's cache."""
        return self.usage.get("input_cached_tokens", 0)

    @property
    def total(self) -> int:
        """All tokens of this call."""
        return self.usage.get("total", 0)

    def tokens(self, side: str) -> int:
        """The tokens of all buckets of one side, ``input`` or ``output``: how Langfuse adds them up."""
        return sum(count for bucket, count in self.usage.items() if side in bucket)


def read_rows(received: Iterable[ExportTraceServiceRequest]) -> list[Row]:
    """All spans of the requests, oldest first."""
    rows = [
        Row(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            name=span.name,
            scope=scope_spans.scope.name,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            attributes={pair.key: _value(pair.value) for pair in span.attributes},
        )
        for request in received
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
    return sorted(rows, key=lambda row: (row.start_ns, row.span_id))


def observe(row: Row) -> Observation:
    """Reads the explicit ``langfuse.*`` attributes of a row."""
    usage = {key: int(count) for key, count in _object(row, "langfuse.observation.usage_details").items()}
    model = row.text("langfuse.observation.model.name")
    return Observation(
        row=row,
        type=row.text("langfuse.observation.type") or "span",
        model=model,
        usage=usage,
        cost=_cost(_object(row, "langfuse.observation.cost_details"), model, usage),
        first_token_ms=_first_token_ms(row),
        level=row.text("langfuse.observation.level") or "DEFAULT",
        user=row.text("langfuse.user.id"),
        session=row.text("langfuse.session.id"),
    )


def walk(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Rows in tree order, each with the guide lines to draw before its name; orphans count as roots."""
    listed = list(rows)
    known = {row.span_id for row in listed}
    children: dict[str, list[Row]] = {}
    for row in listed:
        children.setdefault(row.parent_id if row.parent_id in known else "", []).append(row)
    for root in children.get("", []):
        yield "", root
        yield from _below(root, children, "")


def _below(row: Row, children: Mapping[str, list[Row]], guide: str) -> Iterator[tuple[str, Row]]:
    below = children.get(row.span_id, [])
    for child in below:
        last = child is below[-1]
        yield guide + ("└ " if last else "├ "), child
        yield from _below(child, children, guide + ("  " if last else "│ "))


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def _object(row: Row, key: str) -> dict[str, Any]:
    try:
        parsed = json.loads(row.text(key) or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _cost(given: Mapping[str, Any], model: str, usage: Mapping[str, int]) -> float | None:
    """The given cost, else the listed prices; ``None`` for a model without a price."""
    if given:
        return float(given.get("total", 0.0))
    prices = next((prices for name, prices in PRICES.items() if model.startswith(name)), None)
    if prices is None or not usage:
        return None
    parts = {bucket: count for bucket, count in usage.items() if bucket != "total"} or usage
    return sum(prices.get(bucket, 0.0) * count for bucket, count in parts.items()) / _MILLION


def _first_token_ms(row: Row) -> float | None:
    moment = row.text("langfuse.observation.completion_start_time")
    if not moment:
        return None
    return datetime.fromisoformat(moment).timestamp() * 1000 - row.start_ns / _MILLION
