"""``agent.yaml`` and ``gateway.yaml`` in real Collectors: what belongs to one trace meets at one bridge, and nothing is lost.

Where it is about who gets what, the bridges are stood in for by Collectors that hand on what they get; Tempo is a sink.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_langfuse.testing import FakeLangfuse, OtlpSink
from sidecar.collectors import COLLECTOR, Collector, exported
from sidecar.sidecar_process import SidecarProcess, free_port

TRACES, SPANS, REQUESTS = 24, 4, 6
PROMPT = "PROMPT-TEXT what is a span?"


def stand_in(url: str) -> dict[str, Any]:
    """A bridge that hands on what it gets, at once."""
    return {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": "127.0.0.1:${env:OTLP_GRPC_PORT}"}}}},
        "exporters": {"otlp_http": {"endpoint": url, "sending_queue": {"enabled": False}}},
        "service": {
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["otlp_http"]},
                "logs": {"receivers": ["otlp"], "exporters": ["otlp_http"]},
            },
            "telemetry": {"metrics": {"level": "none"}},
        },
    }


@dataclass
class Stage:
    """The other ends: two bridges, what they got, and Tempo."""

    bridges: tuple[Collector, Collector]
    got: tuple[OtlpSink, OtlpSink]
    tempo: OtlpSink
    home: Path

    @property
    def variables(self) -> dict[str, str]:
        """What the gateway is told."""
        return {
            "OTEL_LANGFUSE_BRIDGES": f"[{', '.join(bridge.grpc for bridge in self.bridges)}]",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.tempo.url,
        }

    def gateway(self, *more: Path) -> Collector:
        return Collector(COLLECTOR / "gateway.yaml", *more, home=self.home / "gateway", environ=self.variables)

    def wait(self, spans: int, records: int) -> None:
        """Returns when both bridges together have so many, and Tempo its spans."""
        assert self.tempo.wait_for(spans, 30), f"Tempo got {len(self.tempo.spans)} of {spans} spans"
        # Each further request wakes the wait; the counts of both bridges decide.
        for sink in self.got:
            sink.wait_for_requests(len(sink.requests) + 1, 0)
        done = _eventually(
            self.got,
            lambda: (
                sum(len(set(ids(sink.spans))) for sink in self.got) >= spans
                and sum(len(sink.log_records) for sink in self.got) >= records
            ),
        )
        assert done, [(len(sink.spans), len(sink.log_records)) for sink in self.got]


def _eventually(sinks: Iterable[OtlpSink], ready: Any, rounds: int = 300) -> bool:
    for _ in range(rounds):
        if ready():
            return True
        for sink in sinks:
            sink.wait_for_requests(len(sink.requests) + 1, 0.05)
    return bool(ready())


def ids(items: Iterable[Any]) -> list[tuple[bytes, bytes]]:
    return [(item.trace_id, item.span_id) for item in items]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        tempo, left, right = (stack.enter_context(OtlpSink()) for _ in range(3))
        bridges = [
            stack.enter_context(Collector(stand_in(sink.url), home=tmp_path / name))
            for name, sink in (("left", left), ("right", right))
        ]
        yield Stage((bridges[0], bridges[1]), (left, right), tempo, tmp_path)


def trace_id(number: int) -> bytes:
    return (number * 0x9E3779B97F4A7C15 % (1 << 128) or 1).to_bytes(16, "big")


def spans_in(request: int) -> ExportTraceServiceRequest:
    """One span of each of many traces: the worst that a sender can do."""
    out = ExportTraceServiceRequest()
    scope = out.resource_spans.add().scope_spans.add()
    for number in range(TRACES):
        for part in range(SPANS):
            span = scope.spans.add(trace_id=trace_id(number), name="chat", start_time_unix_nano=1, end_time_unix_nano=2)
            span.span_id = (request * 1000 + number * 10 + part + 1).to_bytes(8, "big")
            span.attributes.add(key="gen_ai.input.messages").value.string_value = PROMPT
            span.attributes.add(key="gen_ai.request.model").value.string_value = "gpt-4o-mini"
    return out


def records_in(request: int) -> ExportLogsServiceRequest:
    out = ExportLogsServiceRequest()
    scope = out.resource_logs.add().scope_logs.add()
    for number in range(TRACES):
        record = scope.log_records.add(trace_id=trace_id(number), time_unix_nano=1)
        record.span_id = (request * 1000 + number * 10 + 1).to_bytes(8, "big")
        record.body.string_value = PROMPT
    return out


def post(url: str, request: Message) -> None:
    signal = "traces" if isinstance(request, ExportTraceServiceRequest) else "logs"
    call = urllib.request.Request(f"{url}/v1/{signal}", request.SerializeToString(), {"content-type": "application/x-protobuf"})
    with urllib.request.urlopen(call, timeout=30) as answer:
        assert answer.status == 200


def sent(url: str) -> tuple[set[tuple[bytes, bytes]], int]:
    """Posts everything; what was acknowledged."""
    acknowledged, records = set(), 0
    for number in range(REQUESTS):
        spans, logs = spans_in(number), records_in(number)
        post(url, spans)
        post(url, logs)
        acknowledged |= set(ids(spans.resource_spans[0].scope_spans[0].spans))
        records += TRACES
    return acknowledged, records


def test_spans_and_log_records_of_a_trace_meet_at_one_bridge(stage: Stage) -> None:
    with (
        stage.gateway() as gateway,
        Collector(
            COLLECTOR / "agent.yaml", home=stage.home / "agent", environ={"OTEL_LANGFUSE_GATEWAY": gateway.grpc}
        ) as agent,
    ):
        acknowledged, records = sent(agent.url)
        stage.wait(len(acknowledged), records)
        with urllib.request.urlopen(gateway.health, timeout=10) as answer:
            assert answer.status == 200
    left, right = ({item.trace_id for item in (*sink.spans, *sink.log_records)} for sink in stage.got)
    assert left
    assert right
    assert not left & right
    everywhere = [key for sink in stage.got for key in ids(sink.spans)]
    assert sorted(everywhere) == sorted(acknowledged)  # once each
    assert sorted(ids(stage.tempo.spans)) == sorted(acknowledged)
    assert stage.tempo.log_records == []
    assert sum(len(sink.log_records) for sink in stage.got) == records


def test_what_the_gateway_acknowledged_survives_its_crash(stage: Stage) -> None:
    gateway = stage.gateway()
    with gateway:
        acknowledged, records = sent(gateway.url)
        gateway.kill()
        gateway.start()
        stage.wait(len(acknowledged), records)
    assert {key for sink in stage.got for key in ids(sink.spans)} == acknowledged
    assert set(ids(stage.tempo.spans)) == acknowledged


def test_a_bridge_that_is_away_gets_its_traces_when_it_is_back(stage: Stage) -> None:
    with stage.gateway() as gateway:
        stage.bridges[0].kill()
        acknowledged, records = sent(gateway.url)
        # The other one's share is not kept waiting for it.
        assert stage.got[1].wait_for(1, 30)
        stage.bridges[0].start()
        stage.wait(len(acknowledged), records)
    left, right = ({span.trace_id for span in sink.spans} for sink in stage.got)
    assert left
    assert not left & right
    assert {key for sink in stage.got for key in ids(sink.spans)} == acknowledged


def test_what_the_agent_acknowledged_survives_its_crash_and_a_missing_gateway(stage: Stage) -> None:
    gateway = stage.gateway()
    gateway.start()
    gateway.kill()  # It keeps its ports.
    agent = Collector(COLLECTOR / "agent.yaml", home=stage.home / "agent", environ={"OTEL_LANGFUSE_GATEWAY": gateway.grpc})
    with agent:
        acknowledged, records = sent(agent.url)
        agent.kill()
        gateway.start()
        agent.start()
        stage.wait(len(acknowledged), records)
        gateway.stop()
    assert {key for sink in stage.got for key in ids(sink.spans)} == acknowledged


def test_lean_yaml_keeps_prompts_out_of_tempo_only(stage: Stage) -> None:
    with stage.gateway(COLLECTOR / "lean.yaml") as gateway:
        acknowledged, records = sent(gateway.url)
        stage.wait(len(acknowledged), records)
    assert [keys(span) for span in stage.tempo.spans] == [{"gen_ai.request.model"}] * len(acknowledged)
    for sink in stage.got:
        assert all("gen_ai.input.messages" in keys(span) for span in sink.spans)


def keys(span: Any) -> set[str]:
    return {pair.key for pair in span.attributes}


def test_a_collector_with_a_file_stands_in_for_an_otlp_backend(tmp_path: Path) -> None:
    file = tmp_path / "got.json"
    config: Mapping[str, Any] = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": "127.0.0.1:${env:OTLP_HTTP_PORT}"}}}},
        "exporters": {"file": {"path": str(file)}},
        "service": {
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
            "telemetry": {"metrics": {"level": "none"}},
        },
    }
    with Collector(config, home=tmp_path) as backend:
        post(backend.url, spans_in(0))
    assert {span["traceId"] for span in exported(file)} == {trace_id(number).hex() for number in range(TRACES)}


# ------------------------------------------------------------------------------------------------------- real bridges


def call_of(number: int) -> tuple[ExportTraceServiceRequest, ExportLogsServiceRequest]:
    """A request and the call of a model below it, whose prompt and answer stand in a log record."""
    traces, logs = ExportTraceServiceRequest(), ExportLogsServiceRequest()
    start = time.time_ns() - 1_000_000_000
    scope = traces.resource_spans.add().scope_spans.add()
    scope.scope.name = "opentelemetry.instrumentation.openai_v2"  # one that is known to send content in log records
    for part, name in enumerate(("GET /ask", "chat gpt-4o-mini")):
        span = scope.spans.add(trace_id=trace_id(number), name=name, kind=2 + part)
        span.span_id = (number * 10 + part + 1).to_bytes(8, "big")
        span.start_time_unix_nano, span.end_time_unix_nano = start + part, start + 1000 - part
    call = scope.spans[1]
    call.parent_span_id = scope.spans[0].span_id
    for key, value in (("operation.name", "chat"), ("request.model", "gpt-4o-mini"), ("provider.name", "openai")):
        call.attributes.add(key=f"gen_ai.{key}").value.string_value = value
    told = logs.resource_logs.add().scope_logs.add()
    told.scope.name = scope.scope.name
    record = told.log_records.add(trace_id=call.trace_id, span_id=call.span_id, time_unix_nano=start + 900)
    record.event_name = "gen_ai.client.inference.operation.details"
    for key, role in (("input", "user"), ("output", "assistant")):
        message = [{"role": role, "parts": [{"type": "text", "content": f"{key} {number}"}]}]
        record.attributes.add(key=f"gen_ai.{key}.messages").value.string_value = json.dumps(message)
    return traces, logs


@pytest.fixture
def bridged(tmp_path: Path) -> Iterator[tuple[list[SidecarProcess], Collector, FakeLangfuse, OtlpSink]]:
    """Two bridges as ``bridge.yaml`` has them, with journals, behind a gateway behind an agent."""
    with ExitStack() as stack:
        langfuse = stack.enter_context(FakeLangfuse(public_key="pk-lf-1", secret_key="sk-lf-1"))
        tempo = stack.enter_context(OtlpSink())
        bridges, addresses = [], []
        for name in ("left", "right"):
            environ = {
                "LANGFUSE_BASE_URL": langfuse.url,
                "LANGFUSE_PUBLIC_KEY": "pk-lf-1",
                "LANGFUSE_SECRET_KEY": "sk-lf-1",
                "OTEL_LANGFUSE_JOURNAL_DIRECTORY": str(tmp_path / name),
                "OTLP_GRPC_PORT": str(free_port()),
                "ADMIN_PORT": str(free_port()),
            }
            bridges.append(stack.enter_context(SidecarProcess(COLLECTOR / "bridge.yaml", environ)))
            addresses.append(f"127.0.0.1:{environ['OTLP_GRPC_PORT']}")
        told = {"OTEL_LANGFUSE_BRIDGES": f"[{', '.join(addresses)}]", "OTEL_EXPORTER_OTLP_ENDPOINT": tempo.url}
        gateway = stack.enter_context(Collector(COLLECTOR / "gateway.yaml", home=tmp_path / "gateway", environ=told))
        told = {"OTEL_LANGFUSE_GATEWAY": gateway.grpc}
        agent = stack.enter_context(Collector(COLLECTOR / "agent.yaml", home=tmp_path / "agent", environ=told))
        yield bridges, agent, langfuse, tempo


def check_calls(langfuse: FakeLangfuse, tempo: OtlpSink, numbers: int) -> None:
    """Each trace whole, with its content; and nothing in it that only says which way it went."""
    trees = langfuse.trees()
    assert set(trees) == {trace_id(number).hex() for number in range(numbers)}
    for number in range(numbers):
        (root,) = trees[trace_id(number).hex()]
        (call,) = root.children
        attributes = {pair.key: pair.value.string_value for pair in call.span.attributes}
        assert f"input {number}" in attributes["langfuse.observation.input"]
        assert f"output {number}" in attributes["langfuse.observation.output"]
        assert not [key for key in attributes if "route" in key]
    assert {span.trace_id.hex() for span in tempo.spans} == set(trees)
    assert not [key for span in tempo.spans for key in keys(span) if "route" in key]


@pytest.mark.parametrize("crash", [False, True], ids=["", "a bridge crashes"])
def test_log_records_find_their_spans_behind_a_gateway(
    bridged: tuple[list[SidecarProcess], Collector, FakeLangfuse, OtlpSink], crash: bool
) -> None:
    bridges, agent, langfuse, tempo = bridged
    calls = 24
    for number in range(calls):
        traces, logs = call_of(number)
        post(agent.url, traces)
        post(agent.url, logs)
        if crash and number == calls // 2:
            assert tempo.wait_for(number, 30)  # so the bridges have some, too
            bridges[0].kill()
    if crash:
        bridges[0].start()
    assert langfuse.wait_for(2 * calls, 60), len(langfuse.spans)
    for bridge in bridges:
        assert bridge.stop() == 0
    assert tempo.wait_for(2 * calls, 30)
    check_calls(langfuse, tempo, calls)
    if not crash:
        assert len(langfuse.spans) == 2 * calls
