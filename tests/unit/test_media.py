"""Large media: uploaded once, tokens in the span; notes when they cannot be, and the span arrives all the same."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from otel_langfuse import LangfuseSpanExporter, LangfuseSpanProcessor
from otel_langfuse.convert import convert_views
from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.copy import Draft
from otel_langfuse.langfuse.media import Media, extract
from otel_langfuse.langfuse.media_api import MediaError, Owner, Stored
from otel_langfuse.langfuse.media_upload import MediaUploader
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.settings import Settings
from otel_langfuse.testing import FakeLangfuse, MediaLink, Reply, ScriptedTransport, hang, reset
from support import chat

PUBLIC, SECRET = "pk-lf-1234", "sk-lf-5678"
INPUT, OUTPUT = "langfuse.observation.input", "langfuse.observation.output"
HANG = hang()
CALL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini"}


def some_bytes(seed: int, size: int = 100_000) -> bytes:
    return random.Random(seed).randbytes(size)


IMAGE, SOUND, PAPER = some_bytes(1), some_bytes(2), some_bytes(3)


def url(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def id_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()[:22]


def token(mime: str, data: bytes) -> str:
    return f"@@@langfuseMedia:type={mime}|id={id_of(data)}|source=base64_data_uri@@@"


def note(mime: str, data: bytes) -> str:
    return f"[{mime}, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:12]}…; not uploaded]"


def blob(mime: str, data: bytes) -> dict[str, str]:
    encoded = base64.b64encode(data).decode()
    return {"type": "blob", "mime_type": mime, "modality": mime.split("/")[0], "content": encoded}


def messages(*parts: dict[str, str], role: str = "user") -> str:
    return json.dumps([{"role": role, "parts": list(parts)}])


@pytest.fixture
def langfuse() -> Iterator[FakeLangfuse]:
    with FakeLangfuse(public_key=PUBLIC, secret_key=SECRET) as server:
        yield server


@contextmanager
def bench(langfuse: FakeLangfuse, **settings: Any) -> Iterator[tuple[TracerProvider, LangfuseSpanProcessor]]:
    provider = TracerProvider(shutdown_on_exit=False)
    given = {"base_url": langfuse.url, "public_key": PUBLIC, "secret_key": SECRET, **settings}
    processor = LangfuseSpanProcessor(**given)
    provider.add_span_processor(processor)
    try:
        yield provider, processor
    finally:
        provider.shutdown()


def call(provider: TracerProvider, name: str = "chat", scope: str = "genai.lib", **attributes: Any) -> None:
    given = {key.replace("__", "."): value for key, value in attributes.items()}
    with provider.get_tracer(scope).start_as_current_span(name, attributes={**CALL, **given}):
        pass


def shown(langfuse: FakeLangfuse, name: str = "chat") -> dict[str, str]:
    (span,) = [span for span in langfuse.spans if span.name == name]
    return {pair.key: pair.value.string_value for pair in span.attributes}


def media_counts(processor: LangfuseSpanProcessor) -> dict[str, int]:
    assert processor.engine is not None
    counters = processor.engine.status()["counters"]
    return {key.removeprefix("media_"): n for key, n in counters.items() if key.startswith("media_")}


# ------------------------------------------------------------------------------------------------------ uploads


def test_small_media_stay_in_the_span(langfuse: FakeLangfuse) -> None:
    small = some_bytes(4, 65_536)
    with bench(langfuse) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob("image/png", small)))
        assert processor.force_flush()
        assert url("image/png", small) in shown(langfuse)[INPUT]
        assert media_counts(processor) == {}
    assert not langfuse.media_requests


@pytest.mark.parametrize(
    ("mime", "data"), [("image/png", IMAGE), ("audio/wav", SOUND), ("application/pdf", PAPER)], ids=["image", "audio", "file"]
)
def test_large_media_of_a_chat_are_uploaded(langfuse: FakeLangfuse, mime: str, data: bytes) -> None:
    text = {"type": "text", "content": "what is this?"}
    with bench(langfuse) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(text, blob(mime, data)))
        assert processor.force_flush()
        written = shown(langfuse)
        assert media_counts(processor) == {"uploaded": 1}
    assert token(mime, data) in written[INPUT]
    assert "what is this?" in written[INPUT]
    assert ";base64," not in "".join(written.values())
    json.loads(written[INPUT])
    assert langfuse.media == {id_of(data): data}
    (span,) = langfuse.spans
    assert langfuse.media_links == [MediaLink(id_of(data), span.trace_id.hex(), span.span_id.hex(), "input")]


def test_the_requests_are_what_langfuse_expects(langfuse: FakeLangfuse) -> None:
    with bench(langfuse, headers={"x-gate": "open"}) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert processor.force_flush()
    announce, put, report = langfuse.media_requests
    digest = base64.b64encode(hashlib.sha256(IMAGE).digest()).decode()
    (span,) = langfuse.spans
    assert (announce.method, announce.path) == ("POST", "/api/public/media")
    assert json.loads(announce.body) == {
        "traceId": span.trace_id.hex(),
        "observationId": span.span_id.hex(),
        "contentType": "image/png",
        "contentLength": len(IMAGE),
        "sha256Hash": digest,
        "field": "input",
    }
    assert announce.headers["x-gate"] == "open"
    assert put.method == "PUT"
    assert put.headers["x-amz-checksum-sha256"] == digest
    assert put.headers["x-ms-blob-type"] == "BlockBlob"
    assert not {"authorization", "x-gate"} & put.headers.keys()
    assert (report.method, report.path) == ("PATCH", f"/api/public/media/{id_of(IMAGE)}")
    told = json.loads(report.body)
    assert told["uploadHttpStatus"] == 200
    assert told["uploadTimeMs"] >= 0
    assert told["uploadedAt"].endswith("Z")
    assert "uploadHttpError" not in told


def test_what_occurs_again_is_uploaded_once(langfuse: FakeLangfuse) -> None:
    """Twice in one field, in another field, in another span: one upload, and a link for each field."""
    part = blob("image/png", IMAGE)
    with bench(langfuse) as (provider, processor):
        call(provider, "first", gen_ai__input__messages=messages(part, part))
        call(
            provider,
            "second",
            gen_ai__input__messages=messages(part),
            gen_ai__output__messages=messages(part, role="assistant"),
        )
        assert processor.force_flush()
        assert media_counts(processor) == {"uploaded": 1, "deduplicated": 2}
    assert [request.method for request in langfuse.media_requests].count("PUT") == 1
    assert shown(langfuse, "first")[INPUT].count(token("image/png", IMAGE)) == 2
    assert token("image/png", IMAGE) in shown(langfuse, "second")[OUTPUT]
    assert [(link.field, link.media_id) for link in langfuse.media_links] == [
        (field, id_of(IMAGE)) for field in ("input", "input", "output")
    ]


def test_raw_json_stays_json(langfuse: FakeLangfuse) -> None:
    """Content that no reader takes apart, with every escape that JSON writers use."""
    raw = json.dumps({"kept": 'a "quoted" word', "files": [url("application/pdf", PAPER)]}).replace("/", "\\/")
    nested = json.dumps({"inner": json.dumps({"image": url("image/png", IMAGE)})})
    with bench(langfuse) as (provider, processor):
        call(provider, "raw", scope="app", langfuse__observation__input=raw, langfuse__observation__metadata__extra=nested)
        assert processor.force_flush()
        written = shown(langfuse, "raw")
        assert media_counts(processor) == {"uploaded": 2}
    assert json.loads(written[INPUT]) == {"kept": 'a "quoted" word', "files": [token("application/pdf", PAPER)]}
    extra = json.loads(written["langfuse.observation.metadata.extra"])
    assert json.loads(extra["inner"]) == {"image": token("image/png", IMAGE)}
    assert {link.field for link in langfuse.media_links} == {"input", "metadata"}


def test_native_langfuse_content(langfuse: FakeLangfuse) -> None:
    content = json.dumps([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url("image/jpeg", IMAGE)}}]}])
    done = token("image/png", PAPER)
    with bench(langfuse) as (provider, processor):
        call(
            provider,
            "native",
            scope="langfuse-sdk",
            langfuse__observation__type="generation",
            langfuse__observation__input=content,
            langfuse__observation__output=done,
        )
        assert processor.force_flush()
        written = shown(langfuse, "native")
    assert token("image/jpeg", IMAGE) in written[INPUT]
    assert written[OUTPUT] == done
    assert langfuse.media == {id_of(IMAGE): IMAGE}


def test_unusual_data_urls() -> None:
    encoded = base64.urlsafe_b64encode(IMAGE).decode().rstrip("=")
    text = f"data:audio/x-wav;codecs=1;name=a%20b;base64,{encoded} data:;base64,{encoded}"
    attributes, media = extract({INPUT: text, "langfuse.user.id": text}, 65_536)
    assert [(one.mime, one.data == IMAGE) for one in media] == [("audio/wav", True), ("text/plain", True)]
    assert attributes[INPUT] == f"{token('audio/wav', IMAGE)} {token('text/plain', IMAGE)}"
    assert attributes["langfuse.user.id"] == text


def test_spans_without_media_do_not_wait(langfuse: FakeLangfuse) -> None:
    answer = threading.Event()
    langfuse.script_media([Reply(500, after=answer)])
    with bench(langfuse, flush_interval=0.01) as (provider, processor):
        call(provider, "slow", gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert langfuse.wait_for_media_requests(1)
        call(provider, "fast")
        assert langfuse.wait_for(1)
        assert [span.name for span in langfuse.spans] == ["fast"]
        assert processor.engine is not None
        assert processor.engine.status()["queue_bytes"] >= len(IMAGE)
        answer.set()
        assert processor.force_flush()
        assert processor.engine.status()["queue_bytes"] == 0
    assert token("image/png", IMAGE) in shown(langfuse, "slow")[INPUT]


# ---------------------------------------------------------------------------------------------------- no upload


def test_upload_off(langfuse: FakeLangfuse) -> None:
    with bench(langfuse, media_upload=False) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert processor.force_flush()
        assert media_counts(processor) == {"noted": 1}
        assert note("image/png", IMAGE) in shown(langfuse)[INPUT]
    json.loads(shown(langfuse)[INPUT])
    assert not langfuse.media_requests


def test_convert_notes_and_a_foreign_transport_uploads_nothing() -> None:
    content = {"gen_ai.input.messages": messages(blob("image/png", IMAGE))}
    done = convert_views([chat(1, attributes=content)], [], Settings.resolve({}))
    assert note("image/png", IMAGE).encode() in done.payload
    assert done.notes["media_noted"] == 1
    transport = ScriptedTransport([])
    provider = TracerProvider(shutdown_on_exit=False)
    processor = LangfuseSpanProcessor(public_key=PUBLIC, secret_key=SECRET, transport=transport)
    provider.add_span_processor(processor)
    call(provider, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
    assert processor.force_flush()
    assert media_counts(processor) == {"noted": 1}
    provider.shutdown()


def test_what_a_mask_removes_is_not_uploaded(langfuse: FakeLangfuse) -> None:
    seen: list[str] = []

    def mask(value: str, field: str) -> str:
        seen.append(value)
        return "[removed]" if field == "input" else value

    part = blob("image/png", IMAGE)
    with bench(langfuse, mask=mask) as (provider, processor):
        call(
            provider,
            gen_ai__input__messages=messages(part),
            gen_ai__output__messages=messages(blob("image/png", PAPER), role="assistant"),
        )
        assert processor.force_flush()
        assert media_counts(processor) == {"uploaded": 1, "masked": 1}
    assert not any(";base64," in text for text in seen)
    assert shown(langfuse)[INPUT] == "[removed]"
    assert langfuse.media == {id_of(PAPER): PAPER}


# ----------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("mime", "script", "requests"),
    [
        ("image/x-odd", [], 1),
        ("image/png", [Reply(400)], 1),
        ("image/png", [Reply(401)], 1),
        ("image/png", [Reply(404)], 1),
        ("image/png", [Reply(500), Reply(500)], 2),
        ("image/png", [reset(), reset()], 2),
        ("image/png", [HANG], 1),
        ("image/png", [Reply(200, body=b"<html>")], 1),
        ("image/png", [Reply(200, body=b'["x"]')], 1),
        ("image/png", [Reply(201, body=b'{"mediaId":"a|b","uploadUrl":null}')], 1),
        ("image/png", [Reply(201, body=b'{"mediaId":"a","uploadUrl":"file:///etc/passwd"}')], 1),
        ("image/png", [Reply(301, {"location": "https://elsewhere.example/"})], 1),
        ("image/png", [None, Reply(403)], 3),
        ("image/png", [None, Reply(503), Reply(503)], 4),
        ("image/png", [None, HANG], 2),
        ("image/png", [None, None, Reply(500), Reply(500)], 4),
    ],
)
def test_failures_leave_a_note(
    langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture, mime: str, script: list[Any], requests: int
) -> None:
    langfuse.script_media(script)
    # Time matters only where an answer fails to come.
    with bench(langfuse, timeout=1.0 if HANG in script else 30.0) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob(mime, IMAGE)))
        assert processor.force_flush()
        assert media_counts(processor) == {"noted": 1, "failed": 1}
        assert note(mime, IMAGE) in shown(langfuse)[INPUT]
    json.loads(shown(langfuse)[INPUT])
    assert langfuse.media == {}
    assert len(langfuse.media_requests) == requests
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    said = record.getMessage()
    assert f"could not upload media ({mime}, {len(IMAGE)} bytes)" in said
    assert SECRET not in said
    assert "Signature" not in said


@pytest.mark.parametrize(
    "script",
    [[Reply(503)], [Reply(429)], [reset()], [None, Reply(500)], [None, reset()], [None, None, Reply(502)]],
)
def test_one_failure_is_tried_again(langfuse: FakeLangfuse, script: list[Any]) -> None:
    langfuse.script_media(script)
    with bench(langfuse) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert processor.force_flush()
        assert media_counts(processor) == {"uploaded": 1}
    assert langfuse.media == {id_of(IMAGE): IMAGE}


def test_a_refused_upload_is_reported(langfuse: FakeLangfuse) -> None:
    langfuse.script_media([None, Reply(403, body=b"<Error>expired</Error>")])
    with bench(langfuse) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert processor.force_flush()
    told = json.loads(langfuse.media_requests[-1].body)
    assert (told["uploadHttpStatus"], told["uploadHttpError"]) == (403, "<Error>expired</Error>")


def test_what_was_uploaded_needs_no_further_answer(langfuse: FakeLangfuse) -> None:
    """The link to the second observation fails; the token is good all the same."""
    langfuse.script_media([None, None, None, Reply(400)])
    with bench(langfuse) as (provider, processor):
        call(provider, "first", gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        call(provider, "second", gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert processor.force_flush()
        assert media_counts(processor) == {"uploaded": 1, "deduplicated": 1}
    assert token("image/png", IMAGE) in shown(langfuse, "second")[INPUT]


def test_the_servers_id_wins(langfuse: FakeLangfuse) -> None:
    langfuse.script_media([Reply(201, body=b'{"mediaId":"own-id","uploadUrl":null}')])
    with bench(langfuse) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert processor.force_flush()
        assert media_counts(processor) == {"deduplicated": 1}
    assert "@@@langfuseMedia:type=image/png|id=own-id|source=base64_data_uri@@@" in shown(langfuse)[INPUT]


# ---------------------------------------------------------------------------------------------------- lifecycle


def test_flush_waits_and_tells_when_it_was_not_enough(langfuse: FakeLangfuse) -> None:
    answer = threading.Event()
    langfuse.script_media([Reply(503, after=answer)])
    with bench(langfuse) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert not processor.force_flush(300)
        assert langfuse.spans == []
        answer.set()
        assert processor.force_flush()
        assert token("image/png", IMAGE) in shown(langfuse)[INPUT]


def test_shutdown_waits(langfuse: FakeLangfuse) -> None:
    with bench(langfuse, flush_interval=60) as (provider, processor):
        call(provider, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        processor.shutdown()
        assert token("image/png", IMAGE) in shown(langfuse)[INPUT]
        assert media_counts(processor) == {"uploaded": 1}


def test_when_time_is_up_notes_go_out(langfuse: FakeLangfuse) -> None:
    langfuse.script_media([hang()])
    with bench(langfuse, shutdown_timeout=4.0, timeout=30) as (provider, processor):
        for name in ("in work", "waiting"):
            call(provider, name, gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        processor.shutdown()
        assert media_counts(processor) == {"noted": 2}
        assert processor.engine is not None
        assert processor.engine.status()["dropped"] == {}
    for name in ("in work", "waiting"):
        assert note("image/png", IMAGE) in shown(langfuse, name)[INPUT]


def test_the_exporter_uploads_too(langfuse: FakeLangfuse) -> None:
    spans: list[ReadableSpan] = []
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("genai.lib").start_as_current_span("chat", attributes=CALL) as span:
        span.set_attribute("gen_ai.input.messages", messages(blob("image/png", IMAGE)))
    assert isinstance(span, ReadableSpan)
    spans.append(span)
    exporter = LangfuseSpanExporter(base_url=langfuse.url, public_key=PUBLIC, secret_key=SECRET)
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    assert token("image/png", IMAGE) in shown(langfuse)[INPUT]
    langfuse.script_media([hang()])
    exporter.shutdown()
    provider.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_after_a_fork_each_process_uploads_its_own(langfuse: FakeLangfuse) -> None:
    answer = threading.Event()
    langfuse.script_media([Reply(503, after=answer)])
    with bench(langfuse) as (provider, processor):
        call(provider, "parent", gen_ai__input__messages=messages(blob("image/png", IMAGE)))
        assert langfuse.wait_for_media_requests(1)
        child = os.fork()
        if child == 0:
            call(provider, "child", gen_ai__input__messages=messages(blob("image/png", PAPER)))
            fine = processor.force_flush() and media_counts(processor) == {"uploaded": 1}
            os._exit(0 if fine else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        answer.set()
        assert processor.force_flush()
        assert media_counts(processor) == {"uploaded": 1}
    assert sorted(span.name for span in langfuse.spans) == ["child", "parent"]
    assert langfuse.media == {id_of(IMAGE): IMAGE, id_of(PAPER): PAPER}


# ----------------------------------------------------------------------------------------- the uploader alone


class Gate:
    """A store that waits until it may go on."""

    def __init__(self, *, open_: bool = False, error: Exception | None = None) -> None:
        self.opened = threading.Event()
        self.reached = threading.Event()
        self.error = error
        self.closed = threading.Event()
        if open_:
            self.opened.set()

    def store(self, media: Media, owner: Owner, timeout: Any) -> Stored:
        timeout()
        self.reached.set()
        self.opened.wait(10)
        if self.error is not None:
            raise self.error
        return Stored(media.media_id, sent=True)

    def close(self) -> None:
        self.closed.set()


def draft(data: bytes) -> Draft:
    attributes, media = extract({INPUT: url("image/png", data)}, 100)
    return Draft(b"t" * 16, b"s" * 8, b"", "chat", 1, 1, 2, 0, "", attributes=attributes, resource=b"", scope=b"", media=media)


def test_a_full_queue_lets_spans_pass_with_notes() -> None:
    gate, counters, out = Gate(), Counters(), list[EncodedSpan]()
    uploader = MediaUploader(gate, counters=counters, queue_bytes=150_000)
    uploader.submit(draft(IMAGE), out.append)
    uploader.submit(draft(PAPER), out.append)
    assert [note("image/png", PAPER).encode() in span.span for span in out] == [True]
    assert uploader.queue_bytes > len(IMAGE)
    gate.opened.set()
    assert uploader.force_flush(10)
    assert token("image/png", IMAGE).encode() in out[1].span
    assert counters.counts == {"media_uploaded": 1, "media_noted": 1}
    assert uploader.shutdown(10)
    assert uploader.shutdown(10)
    assert gate.closed.is_set()
    uploader.submit(draft(IMAGE), out.append)
    assert len(out) == 3


def test_what_shutdown_gave_up_is_not_spoken_of_again(caplog: pytest.LogCaptureFixture) -> None:
    gate, counters, out = Gate(error=MediaError("no")), Counters(), list[EncodedSpan]()
    uploader = MediaUploader(gate, counters=counters)
    uploader.submit(draft(IMAGE), out.append)
    assert gate.reached.wait(10)
    assert not uploader.shutdown(0.01)
    assert [note("image/png", IMAGE).encode() in span.span for span in out] == [True]
    gate.opened.set()
    assert gate.closed.wait(10)
    assert len(out) == 1
    assert counters.counts == {"media_noted": 1}
    assert not caplog.records


@pytest.mark.parametrize("error", [MediaError("no"), RuntimeError("a secret word")])
def test_an_error_costs_the_media_only(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    counters, out = Counters(), list[EncodedSpan]()
    uploader = MediaUploader(Gate(open_=True, error=error), counters=counters)
    uploader.submit(draft(IMAGE), out.append)
    assert uploader.force_flush(10)
    assert counters.counts == {"media_failed": 1, "media_noted": 1}
    assert len(out) == 1
    assert "secret word" not in caplog.text
    uploader.shutdown(10)


def test_an_error_while_delivering_costs_that_span_only(caplog: pytest.LogCaptureFixture) -> None:
    counters, out = Counters(), list[EncodedSpan]()
    uploader = MediaUploader(Gate(open_=True), counters=counters)

    def fail(span: EncodedSpan) -> None:
        raise ValueError("a secret word")

    uploader.submit(draft(IMAGE), fail)
    uploader.submit(draft(PAPER), out.append)
    assert uploader.force_flush(10)
    assert len(out) == 1
    assert counters.drops == {"encoding_failed": 1}
    assert "secret word" not in caplog.text
    uploader.shutdown(10)


def test_without_threads_shutdown_uploads_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the interpreter no thread can be started any more."""
    counters, out = Counters(), list[EncodedSpan]()
    uploader = MediaUploader(Gate(open_=True), counters=counters)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        uploader.submit(draft(IMAGE), out.append)
        assert out == []
        assert uploader.shutdown(10)
    assert counters.counts == {"media_uploaded": 1}
    assert token("image/png", IMAGE).encode() in out[0].span


def test_nothing_of_media_shows() -> None:
    (media,) = draft(IMAGE).media
    assert repr(IMAGE)[:20] not in repr(media)
    assert url("image/png", IMAGE)[:40] not in repr(draft(IMAGE))
