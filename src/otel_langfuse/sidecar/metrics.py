"""Prometheus metrics, read from the sidecar's status at each scrape: counters live in one place only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_EXPIRED = "expired_"

# Metric, its help, and the count of a destination that it shows.
_COUNTS = (
    ("rows", "Observations written for Langfuse", "rows_out"),
    ("left_out", "Spans that Langfuse does not need", "left_out"),
    ("joined", "Content records that found their span", "content_joined"),
    ("unjoined", "Content records whose span did not come in time", "content_unjoined"),
    ("reparented", "Observations that stand below another span than in the given trace", "reparented"),
    ("merged", "Spans that describe a model call again and were merged", "merged_calls"),
    ("placed_early", "Spans that were placed before their parent was seen", "placed_early"),
    ("promised_parents", "Parents that were promised before they were seen", "expected_parents"),
    ("early_without_content", "Model calls written before their content came", "early_without_content"),
    ("requests", "Requests sent, retries included", "requests"),
    ("retries", "Requests sent again", "retries"),
    ("ambiguous_resend", "Items sent again because the outcome was unknown", "ambiguous_resend"),
    ("sent_bytes", "Bytes sent, compressed", "bytes_sent"),
    ("left_in_journal", "Items left to the next process at shutdown", "left_in_journal"),
)
_GAUGES = (
    ("queue_bytes", "Bytes that wait", "queue_bytes"),
    ("queue_entries", "Requests that wait", "queue_items"),
    ("queue_oldest_seconds", "Age of the request that waits longest", "oldest_seconds"),
    ("window_spans", "Spans that wait for the rest of their trace", "waiting_spans"),
    ("window_bytes", "Bytes of spans that wait for the rest of their trace", "waiting_bytes"),
)


def exposition(status: Mapping[str, Any]) -> bytes:
    """The status of a sidecar as Prometheus text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(lambda: _families(status)))
    return generate_latest(registry)


class _Snapshot(Collector):
    """Gives the registry what is there."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        return self._families()


def _families(status: Mapping[str, Any]) -> Iterator[Metric]:
    intake = CounterMetricFamily("otel_langfuse_intake", "What came in, by kind and result", labels=("what",))
    for name, count in sorted(status["intake"].items()):
        intake.add_metric((name,), count)
    yield intake
    journal = status["journal"]
    for name in ("bytes", "entries", "requests", "oldest_seconds"):
        yield GaugeMetricFamily(f"otel_langfuse_journal_{name}", f"The journal's {name}", journal[name])
    destinations: Mapping[str, Mapping[str, Any]] = status["destinations"]
    sent = CounterMetricFamily("otel_langfuse_sent", "Items delivered", labels=("destination",))
    dropped = CounterMetricFamily("otel_langfuse_dropped", "Items lost, by reason", labels=("destination", "reason"))
    for destination, state in destinations.items():
        sent.add_metric((destination,), state["sent"])
    for labels, count in sorted(_losses(status).items()):
        dropped.add_metric(labels, count)
    yield sent
    yield dropped
    for name, text, count in _COUNTS:
        counter = CounterMetricFamily(f"otel_langfuse_{name}", text, labels=("destination",))
        for destination, state in destinations.items():
            counter.add_metric((destination,), state["counters"].get(count, 0))
        yield counter
    for name, text, key in _GAUGES:
        gauge = GaugeMetricFamily(f"otel_langfuse_{name}", text, labels=("destination",))
        for destination, state in destinations.items():
            if key in state:
                gauge.add_metric((destination,), state[key])
        yield gauge


def _losses(status: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """By destination (empty: none yet) and reason, the items lost.

    What the journal dropped for its age is counted outside of the destinations, as ``expired_<destination>``.
    """
    losses: dict[tuple[str, str], int] = {}
    for destination, state in status["destinations"].items():
        for reason, count in state["dropped"].items():
            losses[destination, reason] = count
    for reason, count in status["lost_before_destinations"].items():
        named = reason.startswith(_EXPIRED) and len(reason) > len(_EXPIRED)
        labels = (reason.removeprefix(_EXPIRED), "expired") if named else ("", reason)
        losses[labels] = losses.get(labels, 0) + count
    return losses
