"""What is measured, for whom, how often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from bench.candidates import CANDIDATES
from bench.titles import SIZES

__all__ = ["GROUPS", "GROWTH", "Step", "steps"]

KIB = 1024
# Spans a second at which no candidate falls behind, by size of messages.
_RATES = {512: 1000, 4 * KIB: 1000, 64 * KIB: 100}
_COMPARED = [name for name in CANDIDATES if name != "ours_unlinked"]  # the link costs the application's thread only
_SENDERS = [name for name in _COMPARED if name not in ("sdk", "langfuse_filtered")]
_HTTP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_BATCH = "opentelemetry.sdk.trace.export"
_IMPORTS: dict[str, list[str]] = {
    "otlp": [_HTTP, _BATCH],
    "fanout_http": [_HTTP, _BATCH],
    "fanout_grpc": [_HTTP, _BATCH, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"],
    "langfuse": ["langfuse:Langfuse"],
    "ours": ["otel_langfuse:LangfuseSpanProcessor"],
    "ours_both": ["otel_langfuse:LangfuseSpanProcessor", _HTTP, _BATCH],
}
_PACKAGES = {
    "otlp": ["opentelemetry-exporter-otlp-proto-http"],
    "fanout_http": ["opentelemetry-exporter-otlp-proto-http"],
    "fanout_grpc": ["opentelemetry-exporter-otlp-proto-http", "opentelemetry-exporter-otlp-proto-grpc"],
    "langfuse": ["langfuse"],
    "ours": ["otel-langfuse"],
    "ours_both": ["otel-langfuse", "opentelemetry-exporter-otlp-proto-http"],
}
GROWTH = {
    "revolving": (1, 100, 1000),
    "flat": (2, 100, 1000, 10_000),
    "nested": (2, 10, 100, 400),
}


@dataclass(frozen=True)
class Step:
    """One measurement.

    Attributes:
        measure: What `worker` does.
        candidate: For whom.
        task: Its arguments.
        rounds: How often at most; ``None``: in every round.
        tempo, langfuse: Which endpoints of the sink it gets.
        group: What ``--only`` calls it.
    """

    measure: str
    candidate: str
    task: dict[str, Any]
    rounds: int | None = None
    tempo: str = "tempo"
    langfuse: str = "langfuse"
    group: str = ""


def steps(groups: Iterable[str], *, quick: bool, has_grpc: bool) -> list[Step]:
    """The steps of one round."""
    found = [replace(step, group=group) for group in groups for step in _GROUPS[group](quick)]
    return [step for step in found if has_grpc or step.candidate != "fanout_grpc"]


def _cpu(quick: bool) -> list[Step]:
    return [
        Step("cpu", name, {"size": size, "spans": _RATES[size] * (1 if quick else 2), "rate": _RATES[size]})
        for size in SIZES
        for name in _COMPARED
    ]


def _plain(quick: bool) -> list[Step]:
    task = {"size": 512, "shape": "plain", "spans": 1000 if quick else 3000, "rate": 1000}
    return [Step("cpu", name, task) for name in ("sdk", "otlp", "langfuse", "ours", "ours_both")]


def _latency(quick: bool) -> list[Step]:
    task = {"size": 4 * KIB, "spans": 1000 if quick else 4000, "rate": 1000}
    return [Step("latency", name, task) for name in ("sdk", *_SENDERS)]


def _burst(quick: bool) -> list[Step]:
    task = {"size": 4 * KIB, "spans": 5000 if quick else 50_000}
    return [Step("burst", name, task, rounds=2) for name in _SENDERS]


def _dead(quick: bool) -> list[Step]:
    task = {"size": 4 * KIB, "spans": 400}
    names = ("ours",) if quick else ("otlp", "fanout_http", "langfuse", "ours", "ours_both", "ours_env")
    found = []
    for way in ("closed", "silent"):
        found += [Step("dead", name, task | {"dead": way}, 2, way, way) for name in names]
        if not quick:
            only = {"dead": f"{way}, Langfuse only"}
            found += [Step("dead", name, task | only, 2, "tempo", way) for name in ("ours_both", "ours_env")]
    return found


def _imports(_: bool) -> list[Step]:
    return [Step("imports", name, {"modules": modules}) for name, modules in _IMPORTS.items()]


def _size(_: bool) -> list[Step]:
    return [Step("size", name, {"packages": packages}, rounds=1) for name, packages in _PACKAGES.items()]


_GROUPS = {
    "cpu": _cpu,
    "plain": _plain,
    "latency": _latency,
    "burst": _burst,
    "dead": _dead,
    "imports": _imports,
    "size": _size,
}
GROUPS = tuple(_GROUPS)
