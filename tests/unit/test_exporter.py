"""The span exporter alone, on the SDK's own processors, and when something else does its work."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_langfuse import LangfuseSpanExporter, LangfuseSpanProcessor
from otel_langfuse.testing import FakeLangfuse, Reply, hang

PUBLIC, SECRET = "pk-lf-1234", "sk-lf-5678"
KEYS: dict[str, Any] = {"public_key": PUBLIC, "secret_key": SECRET}
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 3,
    "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "PROMPT-TEXT"}]}]),
}


@pytest.fixture
def langfuse() -> Iterator[FakeLangfuse]:
    with FakeLangfuse(public_key=PUBLIC, secret_key=SECRET) as server:
        yield server


@pytest.fixture
def exporter(langfuse: FakeLangfuse) -> Iterator[LangfuseSpanExporter]:
    found = LangfuseSpanExporter(base_url=langfuse.url, **KEYS)
    yield found
    found.shutdown()


def ended(*extra: SpanExporter) -> list[ReadableSpan]:
    """The spans of one trace, in the order in which they ended."""
    provider = TracerProvider(shutdown_on_exit=False)
    memory = InMemorySpanExporter()
    for one in (memory, *extra):
        provider.add_span_processor(SimpleSpanProcessor(one))
    tracer = provider.get_tracer("genai.lib")
    with tracer.start_as_current_span("POST /ask"), tracer.start_as_current_span("middleware"):
        for number in range(2):
            with tracer.start_as_current_span(f"chat {number}", attributes=CALL):
                pass
    return list(memory.get_finished_spans())


def tree(langfuse: FakeLangfuse) -> dict[str, list[str]]:
    return {root.name: [below.name for below in root.children] for roots in langfuse.trees().values() for root in roots}


def test_a_batch_is_mapped_and_placed_within_itself(exporter: LangfuseSpanExporter, langfuse: FakeLangfuse) -> None:
    assert exporter.export(ended()) is SpanExportResult.SUCCESS
    assert tree(langfuse) == {"/ask": ["chat 0", "chat 1"]}
    assert len(langfuse.spans) == 3
    rows = {span.name: {pair.key: pair.value.string_value for pair in span.attributes} for span in langfuse.spans}
    assert rows["chat 0"]["langfuse.observation.type"] == "generation"
    assert json.loads(rows["chat 0"]["langfuse.observation.usage_details"])["total"] == 13
    assert exporter.status()["counters"]["sent"] == 3  # type: ignore[index]


class _Scrubbed(ReadableSpan):
    """As applications wrap spans to show less: everything is there, and the public properties leave content out."""

    @property
    def attributes(self) -> Any:
        return {key: "[gone]" if key == "gen_ai.input.messages" else value for key, value in (super().attributes or {}).items()}

    @property
    def events(self) -> Any:
        return ()


def test_a_span_that_shows_less_than_it_holds_is_taken_at_its_word(
    exporter: LangfuseSpanExporter, langfuse: FakeLangfuse
) -> None:
    spans = ended()
    for span in spans:
        span.__class__ = _Scrubbed
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    sent = [export.SerializeToString() for export in langfuse.exports]
    assert sent
    assert not any(b"PROMPT-TEXT" in body for body in sent)


def test_on_a_batch_processor(langfuse: FakeLangfuse) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(LangfuseSpanExporter(base_url=langfuse.url, **KEYS)))
    tracer = provider.get_tracer("genai.lib")
    for number in range(5):
        with (
            tracer.start_as_current_span(f"turn {number}"),
            tracer.start_as_current_span(f"chat {number}", attributes=CALL),
        ):
            pass
    provider.shutdown()
    assert tree(langfuse) == {f"turn {number}": [f"chat {number}"] for number in range(5)}
    assert len(langfuse.spans) == 10


def test_on_a_simple_processor_from_several_threads(langfuse: FakeLangfuse) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(LangfuseSpanExporter(base_url=langfuse.url, **KEYS)))
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        with provider.get_tracer("genai.lib").start_as_current_span(f"chat {number}", attributes=CALL):
            pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.shutdown()
    assert sorted(span.name for span in langfuse.spans) == [f"chat {number}" for number in range(4)]


def test_one_warning_says_what_works_only_with_the_processor(
    exporter: LangfuseSpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        exporter.export(ended())
    (message,) = caplog.messages
    assert "LangfuseSpanProcessor()" in message


def test_refused_keys_are_a_failure_that_says_what_to_fix(langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture) -> None:
    exporter = LangfuseSpanExporter(base_url=langfuse.url, public_key=PUBLIC, secret_key="sk-lf-other")
    assert exporter.export(ended()) is SpanExportResult.FAILURE
    exporter.shutdown()
    (refused,) = [message for message in caplog.messages if "401" in message]
    assert "LANGFUSE_BASE_URL" in refused
    assert "keys" in refused
    assert exporter.status()["dropped"] == {"unauthorized": 3}
    for text in (caplog.text, repr(exporter), str(exporter.status())):
        assert "sk-lf-other" not in text
        assert "PROMPT-TEXT" not in text


def test_what_langfuse_does_not_take_in_time_stays_queued_and_arrives_once(langfuse: FakeLangfuse) -> None:
    gate = threading.Event()
    langfuse.fail_until(gate)
    exporter = LangfuseSpanExporter(base_url=langfuse.url, timeout=1.0, **KEYS)
    assert exporter.export(ended()) is SpanExportResult.FAILURE
    gate.set()
    assert exporter.force_flush(10_000)
    assert len(langfuse.spans) == 3
    exporter.shutdown()


def test_a_retry_within_the_time_is_a_success(exporter: LangfuseSpanExporter, langfuse: FakeLangfuse) -> None:
    langfuse.script([Reply(429, headers={"retry-after": "0"})])
    assert exporter.export(ended()) is SpanExportResult.SUCCESS
    assert len(langfuse.spans) == 3


def test_shutdown_keeps_its_deadline_when_langfuse_hangs(langfuse: FakeLangfuse) -> None:
    langfuse.script([hang()])
    exporter = LangfuseSpanExporter(base_url=langfuse.url, timeout=0.2, shutdown_timeout=0.3, **KEYS)
    exporter.export(ended())
    langfuse.fail_until(threading.Event())
    began = time.monotonic()
    exporter.shutdown()
    exporter.shutdown()
    assert time.monotonic() - began < 2


def test_an_exporter_whose_work_a_processor_does_sends_nothing(
    exporter: LangfuseSpanExporter, langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture
) -> None:
    exporter.superseded = True
    assert exporter.export(ended()) is SpanExportResult.SUCCESS
    assert exporter.force_flush()
    assert langfuse.requests == []
    assert caplog.messages == []


def test_without_keys_it_warns_once_and_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    exporter = LangfuseSpanExporter()
    for _ in range(3):
        assert exporter.export(ended()) is SpanExportResult.SUCCESS
    assert exporter.force_flush()
    exporter.shutdown()
    (message,) = caplog.messages
    assert "LANGFUSE_PUBLIC_KEY" in message


def test_masks_hold_here_too(langfuse: FakeLangfuse) -> None:
    def mask(value: Any, field: str) -> Any:
        return value.replace("PROMPT", "MASKED") if isinstance(value, str) else value

    exporter = LangfuseSpanExporter(base_url=langfuse.url, mask=mask, **KEYS)
    exporter.export(ended())
    exporter.shutdown()
    sent = b"".join(request.payload for request in langfuse.requests)
    assert b"MASKED-TEXT" in sent
    assert b"PROMPT-TEXT" not in sent


def test_a_mask_that_is_not_known_is_named_once_and_lets_nothing_through(
    langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = LangfuseSpanExporter(base_url=langfuse.url, mask="emial", **KEYS)
    exporter.export(ended())
    exporter.export(ended())
    exporter.shutdown()
    assert len([message for message in caplog.messages if "emial" in message]) == 1
    assert b"PROMPT-TEXT" not in b"".join(request.payload for request in langfuse.requests)


def test_an_error_in_the_mapping_costs_the_batch_and_does_not_raise(
    exporter: LangfuseSpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("PROMPT-TEXT")

    monkeypatch.setattr("otel_langfuse.sdk.batches.replay", broken)
    assert exporter.export(ended()) is SpanExportResult.FAILURE
    assert exporter.status()["dropped"] == {"mapping_failed": 4}
    assert [message for message in caplog.messages if "RuntimeError in export; 4 spans are lost" in message]
    assert "PROMPT-TEXT" not in caplog.text


# ----------------------------------------------------------------------------------- beside another Langfuse processor


class OtherSdkProcessor(SimpleSpanProcessor):
    """As the Langfuse SDK's: it knows its project by ``public_key``."""

    def __init__(self, exporter: SpanExporter, public_key: str) -> None:
        super().__init__(exporter)
        self.public_key = public_key


OtherSdkProcessor.__module__ = "langfuse.test"


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_beside_a_processor_of_the_same_project_ours_yields(
    langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    theirs = InMemorySpanExporter()
    processors = [
        LangfuseSpanProcessor(base_url=langfuse.url, **KEYS),
        OtherSdkProcessor(theirs, PUBLIC),
    ]
    provider = TracerProvider(shutdown_on_exit=False)
    for processor in processors if first == "ours" else reversed(processors):
        provider.add_span_processor(processor)
    for _ in range(3):
        with provider.get_tracer("genai.lib").start_as_current_span("chat", attributes=CALL):
            pass
    assert provider.force_flush(10_000)
    provider.shutdown()
    assert langfuse.requests == []
    assert len(theirs.get_finished_spans()) == 3
    (message,) = caplog.messages
    assert "Langfuse(span_exporter=LangfuseSpanExporter())" in message
    assert isinstance(processors[0], LangfuseSpanProcessor)
    assert processors[0].status()["initialized"] is False


def test_a_processor_that_comes_later_gets_only_what_starts_later(langfuse: FakeLangfuse) -> None:
    theirs = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(LangfuseSpanProcessor(base_url=langfuse.url, **KEYS))
    tracer = provider.get_tracer("genai.lib")
    with tracer.start_as_current_span("before", attributes=CALL):
        pass
    provider.add_span_processor(OtherSdkProcessor(theirs, PUBLIC))
    with tracer.start_as_current_span("after", attributes=CALL):
        pass
    provider.shutdown()
    assert [span.name for span in langfuse.spans] == ["before"]
    assert [span.name for span in theirs.get_finished_spans()] == ["after"]


def test_beside_a_processor_of_another_project_both_send(langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture) -> None:
    theirs = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(OtherSdkProcessor(theirs, "pk-lf-other"))
    provider.add_span_processor(LangfuseSpanProcessor(base_url=langfuse.url, **KEYS))
    with provider.get_tracer("genai.lib").start_as_current_span("chat", attributes=CALL):
        pass
    provider.shutdown()
    assert len(langfuse.spans) == len(theirs.get_finished_spans()) == 1
    assert caplog.messages == []


def test_beside_a_processor_with_our_exporter_each_span_goes_once(
    exporter: LangfuseSpanExporter, langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(OtherSdkProcessor(exporter, PUBLIC))
    provider.add_span_processor(LangfuseSpanProcessor(base_url=langfuse.url, **KEYS))
    with provider.get_tracer("genai.lib").start_as_current_span("chat", attributes=CALL):
        pass
    provider.shutdown()
    assert len(langfuse.spans) == 1
    assert exporter.superseded
    assert caplog.messages == []
