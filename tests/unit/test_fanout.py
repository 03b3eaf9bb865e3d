"""Both copies from one queue: every span at the OTLP endpoint, the GenAI part in Langfuse, neither in the other's way."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext, TraceFlags

from otel_langfuse import LangfuseSpanExporter, LangfuseSpanProcessor
from otel_langfuse.langfuse.transport import Answer, TransportError
from otel_langfuse.otlp.answers import OtlpJudge
from otel_langfuse.otlp.encode import SpanEncoder
from otel_langfuse.otlp.endpoint import OtlpEndpoint
from otel_langfuse.pipeline import Pipeline
from otel_langfuse.sdk import arrivals
from otel_langfuse.sdk.arrivals import Passed
from otel_langfuse.settings import Settings
from otel_langfuse.testing import FakeLangfuse, OtlpSink, hang
from otel_langfuse.testing.http_server import Handler, Received

PUBLIC, SECRET = "pk-lf-1234", "sk-lf-5678"
KEYS: dict[str, Any] = {"public_key": PUBLIC, "secret_key": SECRET}
PROMPT = "the prompt that must not leave"
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.input.messages": f'[{{"role":"user","parts":[{{"type":"text","content":"{PROMPT}"}}]}}]',
}


class Backend(OtlpSink):
    """An OTLP endpoint that answers as told."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Callable[[Handler], None]] = []

    def handle(self, handler: Handler, request: Received) -> None:
        """As told, else as a good one does."""
        if self.answers:
            self._note(request)
            self.answers.pop(0)(handler)
        else:
            super().handle(handler, request)


@pytest.fixture
def langfuse() -> Iterator[FakeLangfuse]:
    with FakeLangfuse(public_key=PUBLIC, secret_key=SECRET) as server:
        yield server


@pytest.fixture
def tempo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    with Backend() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        yield server


@contextmanager
def both(langfuse: FakeLangfuse, **settings: Any) -> Iterator[tuple[TracerProvider, LangfuseSpanProcessor]]:
    sampler = settings.pop("sampler", None)
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False, resource=Resource({"service.name": "shop"}))
    processor = LangfuseSpanProcessor(**{"base_url": langfuse.url, "fanout": "otlp", **KEYS, **settings})
    provider.add_span_processor(processor)
    try:
        yield provider, processor
    finally:
        provider.shutdown()


def request(provider: TracerProvider, number: int = 0) -> None:
    """An HTTP request with a database call and a model's call in it."""
    tracer = provider.get_tracer("genai.lib", "1.2", "https://schema")
    with tracer.start_as_current_span(f"visit {number}"):
        with tracer.start_as_current_span("SELECT"):
            pass
        with tracer.start_as_current_span("chat", attributes=CALL):
            pass


def status(processor: LangfuseSpanProcessor) -> dict[str, Any]:
    found: dict[str, Any] = processor.status()["fanout"]
    return found


def everything(sink: OtlpSink) -> bytes:
    return b"".join(found.payload for found in sink.requests)


# ------------------------------------------------------------------------------------------------------ two copies


def test_each_span_is_in_both_with_the_same_ids(langfuse: FakeLangfuse, tempo: Backend) -> None:
    with both(langfuse) as (provider, processor):
        request(provider)
        assert processor.force_flush()
        assert sorted(span.name for span in tempo.spans) == ["SELECT", "chat", "visit 0"]
        assert sorted(span.name for span in langfuse.spans) == ["chat", "visit 0"]
        ids = {(span.trace_id, span.span_id) for span in tempo.spans}
        assert {(span.trace_id, span.span_id) for span in langfuse.spans} < ids
        assert status(processor)["counters"]["sent"] == 3
        assert processor.status()["counters"]["sent"] == 2
    (group,) = tempo.exports[0].resource_spans
    assert [pair.value.string_value for pair in group.resource.attributes if pair.key == "service.name"] == ["shop"]
    (scoped,) = group.scope_spans
    assert (scoped.scope.name, scoped.scope.version, scoped.schema_url) == ("genai.lib", "1.2", "https://schema")


def test_the_link_to_langfuse_is_on_the_other_copy(langfuse: FakeLangfuse, tempo: Backend) -> None:
    with both(langfuse) as (provider, processor):
        request(provider)
        assert processor.force_flush()
    links = {s.name: [p.value.string_value for p in s.attributes if p.key == "langfuse.trace.url"] for s in tempo.spans}
    assert links["SELECT"] == []
    assert links["chat"] == links["visit 0"] != []


def test_with_a_processor_for_each_project_the_other_backend_gets_one_copy(
    langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeLangfuse(public_key="pk-lf-2", secret_key=SECRET) as second, both(langfuse) as (provider, processor):
        two = LangfuseSpanProcessor(base_url=second.url, public_key="pk-lf-2", secret_key=SECRET, fanout="otlp")
        provider.add_span_processor(two)
        request(provider)
        assert processor.force_flush()
        assert two.force_flush()
        assert "fanout" not in two.status()
        assert len(tempo.spans) == 3
        assert len(langfuse.spans) == len(second.spans) == 2
        two.shutdown()


def test_without_the_setting_there_is_one_copy(langfuse: FakeLangfuse, tempo: Backend) -> None:
    with both(langfuse, fanout=None) as (provider, processor):
        request(provider)
        assert processor.force_flush()
        assert "fanout" not in processor.status()
    assert langfuse.spans
    assert tempo.requests == []


@pytest.mark.parametrize(
    ("rule", "left"), [("keep", PROMPT), ("truncate:30", '[{"role":"user","parts":[{"typ…[truncated]'), ("drop", None)]
)
def test_content_leaves_one_copy_and_stays_in_the_other(
    langfuse: FakeLangfuse, tempo: Backend, rule: str, left: str | None
) -> None:
    with both(langfuse, fanout_content=rule) as (provider, processor):
        request(provider)
        assert processor.force_flush()
    (chat,) = [span for span in tempo.spans if span.name == "chat"]
    found = {pair.key: pair.value.string_value for pair in chat.attributes}
    assert found["gen_ai.request.model"] == "gpt-4o-mini"
    if left is None:
        assert "gen_ai.input.messages" not in found
    else:
        assert left in found["gen_ai.input.messages"]
    assert (PROMPT.encode() in everything(tempo)) == (rule == "keep")
    (row,) = [span for span in langfuse.spans if span.name == "chat"]
    assert any(PROMPT in pair.value.string_value for pair in row.attributes)


def test_what_langfuse_samples_out_goes_to_the_other(langfuse: FakeLangfuse, tempo: Backend) -> None:
    with both(langfuse, sample_rate=0.0) as (provider, processor):
        request(provider)
        assert processor.force_flush()
    assert len(tempo.spans) == 3
    assert langfuse.spans == []


def test_what_the_sampler_drops_goes_nowhere(langfuse: FakeLangfuse, tempo: Backend) -> None:
    with both(langfuse, sampler=ALWAYS_OFF) as (provider, processor):
        request(provider)
        assert processor.force_flush()
    assert tempo.requests == langfuse.requests == []


@pytest.mark.parametrize("how", [{"enabled": False}, {"secret_key": "", "public_key": ""}], ids=["off", "no keys"])
def test_without_langfuse_the_other_copy_goes_on(
    langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY", raising=False)
    monkeypatch.delenv("LANGFUSE_SECRET_KEY", raising=False)
    with both(langfuse, **how) as (provider, processor):
        request(provider)
        assert processor.force_flush()
        assert processor.status()["initialized"] is False
    assert len(tempo.spans) == 3
    assert langfuse.requests == []


def test_where_the_langfuse_sdk_sends_the_same_only_its_part_is_left_to_it(langfuse: FakeLangfuse, tempo: Backend) -> None:
    theirs = type("LangfuseSpanProcessor", (SpanProcessor,), {"__module__": "langfuse.stand_in", "public_key": PUBLIC})
    with both(langfuse) as (provider, processor):
        provider.add_span_processor(theirs())
        request(provider)
        assert processor.force_flush()
        assert processor.status()["initialized"] is False
    assert len(tempo.spans) == 3
    assert langfuse.requests == []


def test_a_span_that_cannot_be_mapped_is_in_the_other_copy(
    langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a defect")

    with both(langfuse) as (provider, processor):
        monkeypatch.setattr(Pipeline, "ended", fail)
        request(provider)
        processor.force_flush()
        assert processor.status()["dropped"]["mapping_failed"] == 3
        assert len(tempo.spans) == 3
        assert status(processor)["dropped"] == {}


def test_a_span_that_cannot_be_encoded_is_in_langfuse_and_counted(
    langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"a defect that quotes {PROMPT}")

    monkeypatch.setattr(SpanEncoder, "encode_read", fail)
    with both(langfuse) as (provider, processor):
        request(provider)
        processor.force_flush()
        assert status(processor)["dropped"] == {"encoding_failed": 3}
        assert len(langfuse.spans) == 2
    assert "ValueError while encoding" in caplog.text
    assert PROMPT not in caplog.text


def test_a_span_that_cannot_be_read_is_lost_to_both_and_counted_by_both(
    langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ValueError(f"a defect that quotes {PROMPT}")

    monkeypatch.setattr(arrivals, "read", fail)
    with both(langfuse) as (provider, processor):
        request(provider)
        processor.force_flush()
        assert processor.status()["dropped"] == {"mapping_failed": 3}
        assert status(processor)["dropped"] == {"encoding_failed": 3}
    assert PROMPT not in caplog.text


def test_a_span_that_cannot_be_read_and_is_not_sampled_is_nobodys_loss(langfuse: FakeLangfuse, tempo: Backend) -> None:
    class Unreadable(ReadableSpan):
        @property
        def attributes(self) -> NoReturn:
            raise ValueError("a defect")

    with both(langfuse) as (_, processor):
        processor.on_end(Unreadable("x", SpanContext(1, 2, False, TraceFlags(0))))
        processor.on_end(Unreadable("y", SpanContext(1, 3, False, TraceFlags(1))))
        processor.force_flush()
        assert processor.status()["dropped"] == {"mapping_failed": 1}
        assert status(processor)["dropped"] == {"encoding_failed": 1}


def test_an_attribute_that_otlp_cannot_hold_is_counted(langfuse: FakeLangfuse, tempo: Backend) -> None:
    with both(langfuse) as (provider, processor):
        provider.get_tracer("t").start_span("big", attributes={"n": 2**70, "m": 1}).end()
        assert processor.force_flush()
        assert status(processor)["counters"]["unfit_attributes"] == 1
    assert [pair.key for pair in tempo.spans[0].attributes] == ["m"]


# ------------------------------------------------------------------------------------------- one of them is down


def test_a_dead_backend_does_not_delay_langfuse(langfuse: FakeLangfuse, tempo: Backend) -> None:
    release = threading.Event()
    tempo.answers = [lambda _: release.wait(20)] * 2  # type: ignore[list-item]
    try:
        with both(langfuse, flush_interval=0.05, shutdown_timeout=0.5) as (provider, processor):
            request(provider)
            assert langfuse.wait_for(2, 5)
            assert tempo.wait_for_requests(1)
            begun = time.monotonic()
            processor.shutdown()
            assert time.monotonic() - begun < 3
            assert status(processor)["dropped"] == {"shutdown": 3}
            assert processor.status()["dropped"] == {}
    finally:
        release.set()


def test_a_dead_langfuse_does_not_delay_the_other(langfuse: FakeLangfuse, tempo: Backend) -> None:
    langfuse.script([hang()])
    # No interval ends before the shutdown: that alone sends, and both at once.
    with both(langfuse, flush_interval=60.0, shutdown_timeout=0.5) as (provider, processor):
        request(provider)
        begun = time.monotonic()
        processor.shutdown()
        assert time.monotonic() - begun < 3
        assert len(tempo.spans) == 3
        assert processor.status()["dropped"] == {"shutdown": 2}
        assert status(processor)["dropped"] == {}


def test_a_flush_sends_both_although_langfuse_hangs(langfuse: FakeLangfuse, tempo: Backend) -> None:
    langfuse.script([hang()])
    with both(langfuse, flush_interval=60.0, shutdown_timeout=0.1, timeout=1.0) as (provider, processor):
        request(provider)
        assert not processor.force_flush(500)
        assert tempo.wait_for(3)


def test_a_failed_request_is_sent_again_and_nothing_twice(langfuse: FakeLangfuse, tempo: Backend) -> None:
    tempo.answers = [lambda handler: handler.reply(503, {}, b"")]
    with both(langfuse) as (provider, processor):
        request(provider)
        assert processor.force_flush()
        assert status(processor)["counters"]["retries"] == 1
    assert sorted(span.name for span in tempo.spans) == ["SELECT", "chat", "visit 0"]


def test_what_the_backend_rejects_of_a_request_is_counted(langfuse: FakeLangfuse, tempo: Backend) -> None:
    body = ExportTraceServiceResponse()
    body.partial_success.rejected_spans, body.partial_success.error_message = 2, "too old\nreally"
    answer = body.SerializeToString()
    tempo.answers = [lambda handler: handler.reply(200, {"content-type": "application/x-protobuf"}, answer)]
    with both(langfuse) as (provider, processor):
        request(provider)
        assert processor.force_flush()
        found = status(processor)
    assert found["counters"]["sent"] == 1
    assert found["dropped"] == {"rejected_by_destination": 2}
    assert "rejected 2 (too old really)" in found["last_error"]["message"]


def test_spans_after_the_shutdown_are_lost_to_both_and_counted_for_both(langfuse: FakeLangfuse, tempo: Backend) -> None:
    with both(langfuse) as (provider, processor):
        assert processor.engine is not None
        processor.shutdown()
        request(provider)
        assert processor.status()["dropped"] == {"shutdown": 3}
        assert status(processor)["dropped"] == {"shutdown": 3}


def test_lost_spans_that_were_not_sampled_are_not_counted(langfuse: FakeLangfuse, tempo: Backend) -> None:
    with both(langfuse, enabled=False) as (_, processor):
        assert processor.engine is not None
        assert processor.engine.fanout is not None
        kind = Passed(processor.engine.fanout)
        assert kind.lose((kind, ReadableSpan("no context", None))) == 0
        assert status(processor)["dropped"] == {}


SCRIPT = f"""
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from otel_langfuse import LangfuseSpanProcessor
provider = TracerProvider()
provider.add_span_processor(LangfuseSpanProcessor())
tracer = provider.get_tracer("genai.lib")

def call(name):
    with tracer.start_as_current_span(name, attributes={CALL!r}):
        pass

call("before")
child = os.fork()
if child == 0:
    call("in the child")
    sys.exit(0)
call("after")
assert os.waitpid(child, 0)[1] == 0
"""


def test_after_a_fork_each_process_sends_its_own_to_both(langfuse: FakeLangfuse, tempo: Backend, tmp_path: Path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(SCRIPT)
    environ = {
        "LANGFUSE_PUBLIC_KEY": PUBLIC,
        "LANGFUSE_SECRET_KEY": SECRET,
        "LANGFUSE_BASE_URL": langfuse.url,
        "LANGFUSE_FLUSH_INTERVAL": "60",
        "OTEL_LANGFUSE_FANOUT": "otlp",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{tempo.url}/v1/traces",
    }
    warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *warnings, str(script)], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for sink in (langfuse, tempo):
        assert sorted(span.name for span in sink.spans) == ["after", "before", "in the child"]


# ------------------------------------------------------------------------------------------------- where it goes


def endpoint(**variables: str) -> OtlpEndpoint | None:
    return OtlpEndpoint.of({f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://localhost:4318/v1/traces"),
        ({"ENDPOINT": "https://tempo:4318/"}, "https://tempo:4318/v1/traces"),
        ({"ENDPOINT": "http://tempo/base"}, "http://tempo/base/v1/traces"),
        ({"TRACES_ENDPOINT": "http://tempo/exactly", "ENDPOINT": "http://other"}, "http://tempo/exactly"),
        ({"ENDPOINT": "http://tempo:4317", "PROTOCOL": "http/protobuf"}, "http://tempo:4317/v1/traces"),
        ({"ENDPOINT": "http://tempo:4318", "PROTOCOL": "grpc"}, "http://tempo:4318/v1/traces"),
        ({"PROTOCOL": "grpc"}, "http://localhost:4318/v1/traces"),
        ({"ENDPOINT": "http://t", "PROTOCOL": "grpc", "TRACES_PROTOCOL": "http/protobuf"}, "http://t/v1/traces"),
    ],
)
def test_where_the_copy_goes(variables: dict[str, str], url: str, caplog: pytest.LogCaptureFixture) -> None:
    found = endpoint(**variables)
    assert found is not None
    assert found.url == url
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PROTOCOL": "grpc", "ENDPOINT": "http://tempo:4317"}, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
        ({"TRACES_PROTOCOL": "grpc", "ENDPOINT": "https://tempo"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is grpc"),
        ({"ENDPOINT": "http://tempo:4317"}, "usually 4318"),
        ({"ENDPOINT": "tempo:4318"}, "http://tempo:4318"),
        ({"ENDPOINT": "http://user:hunter22@tempo"}, "without user name"),
        ({"ENDPOINT": "http://tempo:port"}, "is not an http://"),
    ],
)
def test_what_cannot_be_meant_sends_nothing_and_says_what_to_set(
    variables: dict[str, str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert endpoint(**variables) is None
    (record,) = caplog.records
    assert words in record.getMessage()
    assert "nothing is sent to OTLP" in record.getMessage()
    assert "hunter22" not in caplog.text


def test_the_other_variables(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text("")
    found = endpoint(
        HEADERS="Authorization=Basic%20abc,X-Scope-OrgID=one",
        TIMEOUT="3",
        TRACES_TIMEOUT="4.5",
        COMPRESSION="gzip",
        CERTIFICATE=str(pem),
        CLIENT_CERTIFICATE=str(pem),
        CLIENT_KEY=str(pem),
    )
    assert found is not None
    assert found.headers == {"authorization": "Basic abc", "x-scope-orgid": "one"}
    assert (found.timeout, found.gzip, found.ca_file, found.certificate, found.key) == (4.5, True, *[str(pem)] * 3)
    assert "abc" not in repr(found)
    assert not endpoint().gzip  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TIMEOUT": "soon"}, "OTEL_EXPORTER_OTLP_TIMEOUT is not a number"),
        ({"HEADERS": "secret-without-equals"}, "OTEL_EXPORTER_OTLP_HEADERS is not a list of headers"),
        ({"COMPRESSION": "deflate"}, "sent with gzip"),
        ({"CERTIFICATE": "/does/not/exist"}, "OTEL_EXPORTER_OTLP_CERTIFICATE is not an existing file"),
        ({"PROTOCOL": "http/json"}, "goes by http/protobuf"),
    ],
)
def test_other_bad_values_warn_and_fall_back(variables: dict[str, str], words: str, caplog: pytest.LogCaptureFixture) -> None:
    assert endpoint(**variables) is not None
    assert words in caplog.text
    assert "secret-without" not in caplog.text


def test_headers_and_compression_reach_the_backend(
    langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-scope-orgid=team,content-encoding=br")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with both(langfuse) as (provider, processor):
        request(provider)
        assert processor.force_flush()
    (found,) = tempo.requests
    assert found.headers["x-scope-orgid"] == "team"
    assert (found.headers["content-encoding"], found.headers["content-type"]) == ("gzip", "application/x-protobuf")
    # Langfuse's keys are Langfuse's alone.
    assert "authorization" not in found.headers
    assert not any(name.startswith("x-langfuse") for name in found.headers)
    assert len(tempo.spans) == 3


def test_beside_the_stock_exporter_it_stays_off(
    langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "langfuse, otlp")
    with both(langfuse) as (provider, processor):
        request(provider)
        assert processor.force_flush()
        assert "fanout" not in processor.status()
    assert "OTEL_TRACES_EXPORTER=langfuse" in caplog.text
    assert tempo.requests == []
    assert langfuse.spans


def test_the_exporter_alone_says_that_it_does_not_fan_out(
    langfuse: FakeLangfuse, tempo: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = LangfuseSpanExporter(base_url=langfuse.url, fanout="otlp", **KEYS)
    exporter.export([])
    exporter.shutdown()
    assert "OTEL_LANGFUSE_FANOUT=otlp needs the same" in caplog.text


def test_nothing_shows_a_header(langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2222")
    body = ExportTraceServiceResponse()
    body.partial_success.error_message = "no hunter2222 here"
    answer = body.SerializeToString()
    tempo.answers = [lambda handler: handler.reply(200, {"content-type": "application/x-protobuf"}, answer)]
    with both(langfuse) as (provider, processor):
        request(provider)
        assert processor.force_flush()
        assert "no [secret] here" in status(processor)["last_error"]["message"]
        assert "hunter2222" not in repr(processor.status())


@pytest.mark.parametrize(
    ("variables", "fanout", "rule"),
    [
        ({}, None, "keep"),
        ({"FANOUT": "OTLP", "FANOUT_CONTENT": "drop"}, "otlp", "drop"),
        ({"FANOUT": "none", "FANOUT_CONTENT": "truncate:1KiB"}, "none", "truncate: 1024"),
        ({"FANOUT_CONTENT": "Truncate: 0"}, None, "truncate: 0"),
    ],
)
def test_the_settings(variables: dict[str, str], fanout: str | None, rule: str, caplog: pytest.LogCaptureFixture) -> None:
    got = Settings.resolve({f"OTEL_LANGFUSE_{name}": value for name, value in variables.items()})
    assert (got.fanout, got.fanout_content) == (fanout, rule)
    assert caplog.text == ""


@pytest.mark.parametrize("rule", ["dorp", "truncate", "truncate:", "truncate:x", "drop:1", "keep: 5"])
def test_a_rule_that_cannot_be_read_leaves_content_out(rule: str, caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.resolve({"OTEL_LANGFUSE_FANOUT_CONTENT": rule}).fanout_content == "drop"
    assert "content is left out of the OTLP copy" in caplog.text


def test_an_unknown_second_destination_is_none(caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.resolve({"OTEL_LANGFUSE_FANOUT": "otpl"}).fanout == "none"
    assert "did you mean 'otlp'" in caplog.text


# ------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("status_", "headers", "action", "reason", "words"),
    [
        (200, {"content-type": "text/html"}, "permanent", "not_otlp", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (307, {"location": "https://x/y?token=1"}, "permanent", "redirect", "to https://x/y, which is not followed"),
        (400, {}, "permanent", "rejected", "does not accept"),
        (401, {}, "permanent", "unauthorized", "OTEL_EXPORTER_OTLP_HEADERS"),
        (404, {}, "permanent", "not_found", "/v1/traces"),
        (413, {}, "split", "too_large", "larger"),
        (418, {}, "permanent", "rejected", "refused"),
        (429, {"retry-after": "7"}, "retry", "expired", "no more for now"),
        (500, {}, "retry", "expired", "has trouble"),
        (501, {}, "permanent", "rejected", "takes no spans"),
        (504, {}, "retry", "expired", "has trouble"),
    ],
)
def test_what_an_answer_means(status_: int, headers: dict[str, str], action: str, reason: str, words: str) -> None:
    verdict = OtlpJudge("tempo").answer(Answer(status_, headers), spans=3)
    assert (verdict.action, verdict.reason, verdict.status) == (action, reason, status_)
    assert verdict.message.startswith(f"tempo answered {status_} for 3 spans")
    assert words in verdict.message
    assert verdict.after == (7 if "retry-after" in headers else None)
    assert verdict.ambiguous == (status_ == 504)


@pytest.mark.parametrize(
    ("body", "kind", "rejected"),
    [
        (b'{"partialSuccess":{"rejectedSpans":"2"}}', "application/json", 2),
        (b'{"partialSuccess":{"rejectedSpans":99}}', "application/json", 3),
        (b"{", "application/json", 0),
        (b"\xff", "application/x-protobuf", 0),
        (b"", "", 0),
    ],
)
def test_a_partial_success_never_rejects_more_than_was_sent(body: bytes, kind: str, rejected: int) -> None:
    verdict = OtlpJudge("tempo").answer(Answer(200, {"content-type": kind}, body), spans=3)
    assert (verdict.action, verdict.rejected) == ("delivered", rejected)


def test_silence_is_tried_again_and_says_what_to_check() -> None:
    verdict = OtlpJudge("tempo").silence(TransportError("refused", "the connection was refused"), spans=1)
    assert verdict.action == "retry"
    assert "1 span: the connection was refused; check host and port in OTEL_EXPORTER_OTLP_ENDPOINT" in verdict.message


def test_a_refused_connection_is_in_the_status(
    langfuse: FakeLangfuse, tempo: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with caplog.at_level(logging.WARNING), both(langfuse, shutdown_timeout=0.2) as (provider, processor):
            request(provider)
            assert not processor.force_flush(300)
            assert "OTEL_EXPORTER_OTLP_ENDPOINT" in status(processor)["last_error"]["message"]
            assert processor.status()["last_error"] is None
    assert "otel-langfuse (otlp) keeps spans for another attempt" in caplog.text
    assert "otel-langfuse (otlp) dropped spans: reason=shutdown, now 3" in caplog.text
