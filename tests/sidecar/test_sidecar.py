"""The whole sidecar in one process: OTLP over real connections in, both destinations out, the journal between."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_langfuse.convert import convert
from otel_langfuse.sidecar.app import Sidecar
from otel_langfuse.sidecar.config import parse
from otel_langfuse.testing import FakeClock, FakeLangfuse, OtlpSink
from support import case_id, cases, load

NEVER_RECORDED = {"langfuse-openai-wrapper/webapp", "openlit-openai/stream_abort"}
CONFIG = """
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:0"}}}}}}
processors:
  langfuse: {{window: 10s, settle: 1s{processor}}}
exporters:
  langfuse: {{base_url: "{langfuse}", public_key: pk-lf-test, secret_key: sk-lf-test, flush_interval: 20ms}}
  otlp_http/tempo: {{endpoint: "{tempo}"{tempo_keys}}}{exporters}
extensions:
  admin: {{endpoint: "127.0.0.1:0", key: open-sesame}}
  journal: {{directory: "{journal}"}}
service:
  extensions: [admin, journal]
  shutdown_timeout: 5s
  pipelines:
    traces/langfuse: {{receivers: [otlp], processors: [langfuse], exporters: [langfuse{more}]}}
    logs/langfuse: {{receivers: [otlp], processors: [langfuse], exporters: [langfuse{more}]}}
    traces/tempo: {{receivers: [otlp], exporters: [otlp_http/tempo]}}
"""


@contextmanager
def running(
    langfuse: str, tempo: str, *, clock: FakeClock | None = None, journal: Path | str = "", **more: str
) -> Iterator[Sidecar]:
    keys = {"processor": "", "tempo_keys": "", "exporters": "", "more": ""} | more
    plan = parse(CONFIG.format(langfuse=langfuse, tempo=tempo, journal=journal, **keys), {}, "test.yaml")
    sidecar = Sidecar(plan, clock=clock, wait=clock.wait) if clock is not None else Sidecar(plan)
    sidecar.start()
    try:
        yield sidecar
    finally:
        sidecar.stop()


def post(sidecar: Sidecar, signal: str, body: bytes) -> int:
    host, port = sidecar.addresses["otlp/http"]
    request = urllib.request.Request(f"http://{host}:{port}/v1/{signal}", body, {"content-type": "application/x-protobuf"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
        return int(answer.status)


def ask(sidecar: Sidecar, path: str, key: str | None = None, method: str = "GET") -> tuple[int, str]:
    host, port = sidecar.addresses["admin"]
    headers = {"authorization": f"Bearer {key}"} if key is not None else {}
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def pieces(case: Path) -> list[tuple[str, bytes]]:
    """Every span and every log record of a recording as a request of its own."""
    traces, logs = load(case)
    out: list[tuple[str, bytes]] = []
    for group in ExportTraceServiceRequest.FromString(traces).resource_spans:
        for scoped in group.scope_spans:
            for span in scoped.spans:
                request = ExportTraceServiceRequest()
                into = request.resource_spans.add(resource=group.resource)
                into.scope_spans.add(scope=scoped.scope, spans=[span])
                out.append(("traces", bytes(request.SerializeToString())))
    if logs:
        for resource_logs in ExportLogsServiceRequest.FromString(logs).resource_logs:
            for scope_logs in resource_logs.scope_logs:
                for record in scope_logs.log_records:
                    export = ExportLogsServiceRequest()
                    inside = export.resource_logs.add(resource=resource_logs.resource)
                    inside.scope_logs.add(scope=scope_logs.scope, log_records=[record])
                    out.append(("logs", bytes(export.SerializeToString())))
    return out


def spans_of(payload: bytes) -> list[Span]:
    return [
        span
        for group in ExportTraceServiceRequest.FromString(payload).resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
    ]


def shown(spans: list[Span]) -> dict[Any, bytes]:
    return {(span.trace_id, span.span_id): span.SerializeToString(deterministic=True) for span in spans}


def simple(number: int, attributes: dict[str, str] | None = None, resource: dict[str, str] | None = None) -> bytes:
    """A trace of one model call."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    for key, value in (resource or {}).items():
        group.resource.attributes.add(key=key).value.string_value = value
    span = group.scope_spans.add().spans.add(
        trace_id=number.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        name="chat",
        start_time_unix_nano=1_700_000_000_000_000_000,
        end_time_unix_nano=1_700_000_000_500_000_000,
    )
    given = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": f"secret {number}"}]}]),
    }
    for key, value in (given | (attributes or {})).items():
        span.attributes.add(key=key).value.string_value = value
    return bytes(request.SerializeToString())


ONE_OF_EACH = list({case.parent.name: case for case in cases("*")}.values())
"""One recording of each library; tests/corpus/test_window.py has all of them."""


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=case_id)
def test_a_recording_in_pieces_gives_what_convert_gives(case: Path) -> None:
    """Each span and record in a request of its own, in any order, while the clock stands still."""
    requests = pieces(case)
    random.Random(case_id(case)).shuffle(requests)
    with FakeLangfuse() as langfuse, OtlpSink() as tempo, running(langfuse.url, tempo.url, clock=FakeClock()) as sidecar:
        for signal, body in requests:
            assert post(sidecar, signal, body) == 200
        if case_id(case) not in NEVER_RECORDED:
            assert sidecar.flush(30) == {"langfuse": True, "otlp_http/tempo": True}
        assert sidecar.stop()
        assert shown(langfuse.spans) == shown(spans_of(convert(*load(case)).payload))
        assert shown(tempo.spans) == shown(spans_of(load(case)[0]))


def test_a_dead_destination_delays_no_other() -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        langfuse.fail_until(threading.Event())
        with running(langfuse.url, tempo.url) as sidecar:
            for number in range(1, 21):
                assert post(sidecar, "traces", simple(number)) == 200
            assert tempo.wait_for(20)
            assert not langfuse.spans
    assert sidecar.status()["destinations"]["otlp_http/tempo"]["sent"] == 20


def test_what_was_not_delivered_waits_in_the_journal_for_the_next_process(tmp_path: Path) -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        langfuse.fail_until(threading.Event())
        with running(langfuse.url, tempo.url, journal=tmp_path) as sidecar:
            for number in range(1, 21):
                assert post(sidecar, "traces", simple(number)) == 200
            assert langfuse.wait_for_requests(1)
            assert sidecar.stop(1.0) is False
        tried = {request.body for request in langfuse.requests}
    with FakeLangfuse() as langfuse, running(langfuse.url, tempo.url, journal=tmp_path):
        assert langfuse.wait_for(20)
        assert len(langfuse.spans) == 20
        assert tried & {request.body for request in langfuse.requests}, "the same bytes, not mapped again"


def test_one_tenants_spans_never_reach_another() -> None:
    with FakeLangfuse() as acme, FakeLangfuse() as globex, FakeLangfuse() as rest, OtlpSink() as tempo:
        other = 'langfuse/{0}: {{base_url: "{1}", public_key: pk-lf-{0}, secret_key: sk-lf-{0}, flush_interval: 20ms}}'
        more = {
            "processor": ", routing: {attribute: tenant, default: langfuse,"
            " routes: {acme: langfuse/acme, globex: langfuse/globex}}",
            "exporters": "\n  " + other.format("acme", acme.url) + "\n  " + other.format("globex", globex.url),
            "more": ", langfuse/acme, langfuse/globex",
        }
        with running(rest.url, tempo.url, **more) as sidecar:
            post(sidecar, "traces", simple(1, resource={"tenant": "acme"}))
            post(sidecar, "traces", simple(2, resource={"tenant": "acme"}, attributes={"tenant": "globex"}))
            post(sidecar, "traces", simple(3))
            post(sidecar, "traces", simple(4, attributes={"tenant": "someone else"}))
            assert all(sidecar.flush(10).values())
        got = {
            name: sorted(span.span_id[-1] for span in fake.spans)
            for name, fake in {"acme": acme, "globex": globex, "rest": rest}.items()
        }
    assert got == {"acme": [1], "globex": [2], "rest": [3, 4]}
    assert len(tempo.spans) == 4


def test_tempo_can_stay_lean() -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        with running(langfuse.url, tempo.url, tempo_keys=", content: drop") as sidecar:
            post(sidecar, "traces", simple(7))
            assert all(sidecar.flush(10).values())
        assert b"secret 7" in langfuse.requests[0].payload
        assert not any(b"secret 7" in request.payload for request in tempo.requests)
        assert [span.name for span in tempo.spans] == ["chat"]


def test_admin_shows_health_to_all_and_the_rest_to_who_has_the_key() -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo, running(langfuse.url, tempo.url) as sidecar:
        assert ask(sidecar, "/api/instrumentation/health") == (200, '{"status":"ok"}')
        assert ask(sidecar, "/api/instrumentation/langfuse/status")[0] == 401
        assert ask(sidecar, "/api/instrumentation/langfuse/status", "wrong")[0] == 401
        post(sidecar, "traces", simple(1))
        code, text = ask(sidecar, "/api/instrumentation/langfuse/flush", "open-sesame", "POST")
        assert (code, json.loads(text)) == (200, {"flushed": True, "destinations": {"langfuse": True, "otlp_http/tempo": True}})
        code, text = ask(sidecar, "/api/instrumentation/langfuse/status", "open-sesame")
        assert code == 200
        assert json.loads(text)["destinations"]["langfuse"]["sent"] == 1
        assert "sk-lf" not in text
        assert "secret" not in text


def test_metrics_count_what_came_and_what_went() -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo, running(langfuse.url, tempo.url) as sidecar:
        post(sidecar, "traces", simple(1))
        assert all(sidecar.flush(10).values())
        code, text = ask(sidecar, "/metrics")
    assert code == 200
    lines = text.splitlines()
    assert 'otel_langfuse_intake_total{what="spans_accepted"} 1.0' in lines
    assert 'otel_langfuse_sent_total{destination="langfuse"} 1.0' in lines
    assert 'otel_langfuse_sent_total{destination="otlp_http/tempo"} 1.0' in lines
    assert 'otel_langfuse_queue_bytes{destination="langfuse"} 0.0' in lines


def test_an_invalid_span_costs_only_itself() -> None:
    broken = ExportTraceServiceRequest.FromString(simple(1))
    broken.resource_spans[0].scope_spans[0].spans.add(trace_id=b"short", span_id=b"x" * 8, name="broken")
    with FakeLangfuse() as langfuse, OtlpSink() as tempo, running(langfuse.url, tempo.url) as sidecar:
        assert post(sidecar, "traces", broken.SerializeToString()) == 200
        assert all(sidecar.flush(10).values())
        assert [span.name for span in langfuse.spans] == ["chat"]
        assert [span.name for span in tempo.spans] == ["chat"]
        assert sidecar.status()["intake"]["invalid_spans"] == 1


def test_a_stopping_sidecar_delivers_what_it_has() -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        with running(langfuse.url, tempo.url) as sidecar:
            for number in range(1, 51):
                post(sidecar, "traces", simple(number))
            assert sidecar.stop()
        assert len(langfuse.spans) == len(tempo.spans) == 50


def test_a_clock_that_jumps_makes_nothing_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in the journal is not dropped because somebody set the clock a year on."""
    real = time.time
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        down = threading.Event()
        langfuse.fail_until(down)
        with running(langfuse.url, tempo.url, journal=tmp_path) as sidecar:
            post(sidecar, "traces", simple(1))
            monkeypatch.setattr(time, "time", lambda: real() + 366 * 86400)
            post(sidecar, "traces", simple(2))
            sidecar.keep_house()
            monkeypatch.setattr(time, "time", lambda: real() - 366 * 86400)
            post(sidecar, "traces", simple(3))
            sidecar.keep_house()
            monkeypatch.undo()
            down.set()
            assert all(sidecar.flush(20).values())
            assert sidecar.status()["lost_before_destinations"] == {}
        assert sorted(span.span_id[-1] for span in langfuse.spans) == [1, 2, 3]


def comes_again(sidecar: Sidecar, body: bytes) -> bool:
    """Whether a sender that comes again is let in, within ten seconds."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            return post(sidecar, "traces", body) == 200
        except urllib.error.HTTPError as error:
            error.close()
    return False


def test_a_full_journal_refuses_and_goes_on_delivering(tmp_path: Path) -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        down = threading.Event()
        langfuse.fail_until(down)
        with running(langfuse.url, tempo.url, journal=f'{tmp_path}", max_bytes: "8KiB') as sidecar:
            taken, refused = 0, None
            for number in range(1, 100):
                try:
                    post(sidecar, "traces", simple(number))
                    taken += 1
                except urllib.error.HTTPError as error:
                    with error:
                        refused = error.code, error.headers["retry-after"]
                    break
            assert refused is not None
            assert refused[0] == 429
            assert int(refused[1]) >= 1
            down.set()
            assert all(sidecar.flush(30).values())
            assert len(langfuse.spans) == taken > 0
            assert comes_again(sidecar, simple(200)), "there is room again"


def family(*spans: tuple[int, int, str]) -> bytes:
    """Spans of one trace: number, parent, and whether it is a call."""
    request = ExportTraceServiceRequest()
    scoped = request.resource_spans.add().scope_spans.add()
    for number, parent, kind in spans:
        span = scoped.spans.add(
            trace_id=b"f" * 16, span_id=number.to_bytes(8, "big"), name=kind, start_time_unix_nano=10**18, flags=0x100
        )
        span.end_time_unix_nano = 10**18 + 10**9
        if parent:
            span.parent_span_id = parent.to_bytes(8, "big")
        if kind == "chat":
            span.attributes.add(key="gen_ai.operation.name").value.string_value = "chat"
            span.attributes.add(key="gen_ai.request.model").value.string_value = "gpt-4o-mini"
    return bytes(request.SerializeToString())


def test_a_promise_outlives_the_process(tmp_path: Path) -> None:
    """A call is placed below a parent that is still open; the parent, no GenAI span, comes to the next process."""
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        with running(langfuse.url, tempo.url, journal=tmp_path) as sidecar:
            post(sidecar, "traces", family((2, 1, "chat")))
            assert all(sidecar.flush(10).values())
            assert [span.parent_span_id[-1] for span in langfuse.spans] == [1]
        with running(langfuse.url, tempo.url, journal=tmp_path) as sidecar:
            assert all(sidecar.flush(10).values())
            post(sidecar, "traces", family((1, 0, "GET /ask")))
            assert all(sidecar.flush(10).values())
        assert {span.name: span.parent_span_id for span in langfuse.spans} == {"/ask": b"", "chat": (1).to_bytes(8, "big")}
        assert len(langfuse.spans) == 2, "the call was not sent again"
        with running(langfuse.url, tempo.url, journal=tmp_path) as sidecar:
            assert sidecar.status()["journal"]["entries"] == 0


def record(number: int, text: str, tenant: str, *, span: bool, response_id: str = "") -> bytes:
    """A content record of a tenant, with or without the id of its span."""
    export = ExportLogsServiceRequest()
    group = export.resource_logs.add()
    group.resource.attributes.add(key="tenant").value.string_value = tenant
    entry = group.scope_logs.add().log_records.add(event_name="gen_ai.client.inference.operation.details")
    if span:
        entry.trace_id, entry.span_id = number.to_bytes(16, "big"), number.to_bytes(8, "big")
    if response_id:
        entry.attributes.add(key="gen_ai.response.id").value.string_value = response_id
    said = [{"role": "assistant", "parts": [{"type": "text", "content": text}]}]
    entry.attributes.add(key="gen_ai.output.messages").value.string_value = json.dumps(said)
    return bytes(export.SerializeToString())


def test_one_tenants_words_never_reach_another() -> None:
    """A record that names no span is joined by its response id, which two tenants may share."""
    with FakeLangfuse() as acme, FakeLangfuse() as rest, OtlpSink() as tempo:
        more = {
            "processor": ", routing: {attribute: tenant, default: langfuse, routes: {acme: langfuse/acme}}",
            "exporters": f'\n  langfuse/acme: {{base_url: "{acme.url}", public_key: pk-lf-a, secret_key: sk-lf-a}}',
            "more": ", langfuse/acme",
        }
        with running(rest.url, tempo.url, **more) as sidecar:
            for response_id in ("same", ""):
                post(sidecar, "logs", record(1, "of somebody else", "globex", span=False, response_id=response_id))
            post(sidecar, "logs", record(1, "of acme", "acme", span=True))
            post(sidecar, "traces", simple(1, {"gen_ai.response.id": "same"}, resource={"tenant": "acme"}))
            assert all(sidecar.flush(10).values())
        (payload,) = [request.payload for request in acme.requests]
        assert b"of acme" in payload
        assert b"of somebody else" not in payload


def test_a_record_that_came_before_a_restart_finds_its_span_after_it(tmp_path: Path) -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        with running(langfuse.url, tempo.url, journal=tmp_path) as sidecar:
            post(sidecar, "logs", record(1, "said before", "acme", span=True))
        with running(langfuse.url, tempo.url, journal=tmp_path) as sidecar:
            post(sidecar, "traces", simple(1))
            assert all(sidecar.flush(10).values())
        assert b"said before" in langfuse.requests[0].payload


def test_a_flush_that_meets_a_shutdown_does_not_claim_success() -> None:
    with FakeLangfuse() as langfuse, OtlpSink() as tempo:
        langfuse.fail_until(threading.Event())
        with running(langfuse.url, tempo.url) as sidecar:
            post(sidecar, "traces", simple(1))
            assert langfuse.wait_for_requests(0)
            sidecar.stop(0.5)
            begin = time.monotonic()
            assert sidecar.flush(30)["langfuse"] is False
            assert time.monotonic() - begin < 10


def test_health_says_when_it_refuses(tmp_path: Path) -> None:
    small = f'{tmp_path}", max_bytes: "1KiB'
    with FakeLangfuse() as langfuse, OtlpSink() as tempo, running(langfuse.url, tempo.url, journal=small) as sidecar:
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(sidecar, "traces", simple(1, {"gen_ai.output.messages": "x" * 4096}))
        refused.value.close()
        assert ask(sidecar, "/api/instrumentation/health") == (200, '{"status":"refusing"}')
