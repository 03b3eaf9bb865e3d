"""The benchmarks run: one short measurement of each kind, and the report of what they found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.__main__ import lost, machine, one
from bench.plan import GROUPS, GROWTH, Step, steps
from bench.profiling import stages
from bench.report import write_report
from bench.running import Sink
from bench.soak import soak
from bench.stats import Samples, Spread
from bench.turns import CANDIDATES, take_turns

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    "step",
    [
        Step("cpu", "ours", {"size": 512, "spans": 200, "rate": 2000}, group="cpu"),
        Step("latency", "ours", {"size": 512, "spans": 200, "rate": 2000}, group="latency"),
        Step("burst", "ours", {"size": 512, "spans": 400}, group="burst"),
    ],
    ids=lambda step: f"{step.measure}-{step.task.get('shape', 'pair')}",
)
def test_every_span_of_a_measurement_arrives(step: Step) -> None:
    with Sink() as sink:
        samples = one(sink, step, 0)
    assert len(samples) == 1
    values = samples[0]["values"]
    assert values.get("lost_langfuse", 0) == 0
    assert all(number >= 0 for number in values.values() if isinstance(number, float))


def test_imports_of_ours_are_few() -> None:
    with Sink() as sink:
        samples = one(sink, Step("imports", "ours", {"modules": ["otel_langfuse:LangfuseSpanProcessor"]}), 0)
    assert "grpc" not in samples[0]["values"]["packages"]
    assert "requests" not in samples[0]["values"]["packages"]


def test_a_soak_tells_lost_and_doubled_spans() -> None:
    result = soak(1.0, 5.0)
    assert (result["made"], result["lost"], result["twice"]) == (1000, 0, 0)
    assert result["refused requests"] > 0


def test_each_stage_takes_time() -> None:
    found = stages(512, 64)
    assert all(value > 0 for value in found.values())
    assert found["bytes per span, compressed"] < found["bytes per span"]


def test_living_processes_take_turns() -> None:
    with Sink() as sink:
        samples = take_turns(sink, "turns", 3, quick=True)
        spans = sink.count()["langfuse"]["spans"]
    assert [(sample["candidate"], sample["round"]) for sample in samples] == [(name, 3) for name in CANDIDATES]
    assert all(sample["values"]["app_us"] > 0 for sample in samples)
    assert spans == 160 * sum(name not in ("sdk", "otlp") for name in CANDIDATES)
    report = write_report({"machine": machine(), "rounds": 1, "seconds": 1.0, "samples": samples})
    assert "added to the SDK alone" in report


def test_growth_is_measured_by_turns() -> None:
    with Sink() as sink:
        samples = take_turns(sink, "growth", 0, quick=True)
        spans = sink.count()["langfuse"]["spans"]
    made = {(shape, number) for shape, numbers in GROWTH.items() for number in numbers[:2]}
    assert {(sample["shape"], sample["number"]) for sample in samples if sample["candidate"] == "ours"} == made
    assert spans >= 160 * len(made)
    report = write_report({"machine": machine(), "rounds": 1, "seconds": 1.0, "samples": samples})
    assert "Traces open at once" in report


def test_a_report_is_written_from_any_subset() -> None:
    sample = {
        "group": "cpu",
        "round": 0,
        "measure": "cpu",
        "size": 4096,
        "values": {"app_us": 2.0, "process_us": 4.0, "made": 10, "bytes": {"tempo": 0, "langfuse": 100}},
    }
    samples = [sample | {"candidate": name} for name in ("sdk", "otlp", "langfuse", "ours")]
    results = {"machine": machine(), "rounds": 1, "seconds": 1.0, "samples": json.loads(json.dumps(samples))}
    assert "| otel-langfuse |" in write_report(results)
    assert write_report(results | {"samples": []}).startswith("# What a span costs")


def test_ratios_are_taken_within_a_round() -> None:
    values = {("a", 0): 1.0, ("b", 0): 2.0, ("a", 1): 30.0, ("b", 1): 60.0, ("a", 2): 5.0}
    samples = Samples(
        [
            {"measure": "cpu", "candidate": name, "round": number, "values": {"us": value}}
            for (name, number), value in values.items()
        ]
    )
    assert samples.ratio("cpu", "a", "b", "us") == Spread(0.5, 0.5, 0.5, 2)


def test_loss_is_counted_only_where_spans_are_due() -> None:
    values = {"made": 10, "arrived": {"tempo": 0, "langfuse": 9}}
    assert lost("ours", values) == {"lost_langfuse": 1}
    assert lost("langfuse_filtered", values) == {}


def test_every_group_has_steps() -> None:
    for group in GROUPS:
        found = steps([group], quick=True, has_grpc=False)
        assert found
        assert all(step.candidate != "fanout_grpc" for step in found)
