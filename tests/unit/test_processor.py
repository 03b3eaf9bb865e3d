"""The span processor on a provider made in code: exits, forks, threads, deadlines, and what it says about itself."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import set_span_in_context

from otel_langfuse import LangfuseLogRecordProcessor, LangfuseSpanProcessor, propagate_attributes
from otel_langfuse.counters import OncePerInterval
from otel_langfuse.testing import FakeLangfuse, hang

PUBLIC, SECRET = "pk-lf-1234", "sk-lf-5678"
KEYS: dict[str, Any] = {"public_key": PUBLIC, "secret_key": SECRET}
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 3,
}
PRELUDE = f"""
import os, signal, sys, threading
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_langfuse import LangfuseSpanProcessor

provider = TracerProvider()
trace.set_tracer_provider(provider)
if os.environ.get("DEAD_TEMPO"):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(os.environ["DEAD_TEMPO"], timeout=1)))
processor = LangfuseSpanProcessor()
provider.add_span_processor(processor)
tracer = provider.get_tracer("genai.lib")

def call(name):
    with tracer.start_as_current_span(name, attributes={CALL!r}):
        pass

"""


@pytest.fixture
def langfuse() -> Iterator[FakeLangfuse]:
    with FakeLangfuse(public_key=PUBLIC, secret_key=SECRET) as server:
        yield server


@contextmanager
def bench(langfuse: FakeLangfuse, **settings: Any) -> Iterator[tuple[TracerProvider, LangfuseSpanProcessor]]:
    sampler = settings.pop("sampler", None)
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    processor = LangfuseSpanProcessor(**{"base_url": langfuse.url, **KEYS, **settings})
    provider.add_span_processor(processor)
    try:
        yield provider, processor
    finally:
        provider.shutdown()


def call(provider: TracerProvider, name: str = "chat", **attributes: Any) -> None:
    with provider.get_tracer("genai.lib").start_as_current_span(name, attributes={**CALL, **attributes}):
        pass


def names(langfuse: FakeLangfuse) -> list[str]:
    return sorted(span.name for span in langfuse.spans)


def attributes(langfuse: FakeLangfuse, name: str = "chat") -> dict[str, str]:
    (span,) = [span for span in langfuse.spans if span.name == name]
    return {pair.key: pair.value.string_value for pair in span.attributes}


class Child:
    """Runs a script that ends with spans in a Langfuse of the test."""

    def __init__(self, langfuse: FakeLangfuse, folder: Path) -> None:
        self._langfuse = langfuse
        self._script = folder / "child.py"

    def start(self, body: str, **variables: str) -> subprocess.Popen[str]:
        self._script.write_text(PRELUDE + textwrap.dedent(body))
        environ = {
            "LANGFUSE_PUBLIC_KEY": PUBLIC,
            "LANGFUSE_SECRET_KEY": SECRET,
            "LANGFUSE_BASE_URL": self._langfuse.url,
            # Nothing leaves by itself while the script runs: what arrives was sent because the process ended.
            "LANGFUSE_FLUSH_INTERVAL": "60",
            **variables,
        }
        # Warnings are errors in children too, except Python's own about forking with threads.
        warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        return subprocess.Popen(
            [sys.executable, *warnings, str(self._script)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, body: str, code: int = 0, **variables: str) -> str:
        """What the script said on stderr."""
        with self.start(body, **variables) as process:
            try:
                _, said = process.communicate(timeout=90)  # a machine may be busy; a lock-up lasts for ever
            finally:
                process.kill()
        assert process.returncode == code, said
        return said


@pytest.fixture
def child(langfuse: FakeLangfuse, tmp_path: Path) -> Child:
    return Child(langfuse, tmp_path)


# ------------------------------------------------------------------------------------------------------- exits


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("raise RuntimeError('unhandled')", 1),
        ("provider.shutdown()", 0),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); os.kill(os.getpid(), signal.SIGTERM)", 0),
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", 0),
        ("threading.Thread(target=lambda: (threading.Event().wait(0.2), call('late'))).start()", 0),
        ("provider.force_flush(); os._exit(0)", 0),
        ("provider.force_flush(); os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_all_spans_arrive_however_the_process_ends(child: Child, langfuse: FakeLangfuse, ending: str, code: int) -> None:
    said = child.run(f"[call(f'call {{number}}') for number in range(3)]\n{ending}\n", code)
    late = ["late"] if "late" in ending else []
    assert names(langfuse) == ["call 0", "call 1", "call 2", *late]
    assert "otel-langfuse" not in said


def test_an_open_entry_is_there_as_a_placeholder_when_the_process_ends(child: Child, langfuse: FakeLangfuse) -> None:
    child.run("entry = tracer.start_span('entry')\nwith trace.use_span(entry):\n    call('chat')\n")
    assert names(langfuse) == ["chat", "entry"]
    ((root,),) = langfuse.trees().values()
    assert root.name == "entry"
    assert [below.name for below in root.children] == ["chat"]


# ------------------------------------------------------------------------------------------------------- forks


def test_after_a_fork_each_process_sends_its_own_spans_once(child: Child, langfuse: FakeLangfuse) -> None:
    child.run(
        """
        call("before")
        child = os.fork()
        if child == 0:
            call("in the child")
            sys.exit(0)
        call("after")
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert names(langfuse) == ["after", "before", "in the child"]


def test_a_fork_of_a_fork_sends_too(child: Child, langfuse: FakeLangfuse) -> None:
    child.run(
        """
        call("first")
        for generation in range(3):
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                break
            call(f"generation {generation}")
        """
    )
    assert names(langfuse) == ["first", "generation 0", "generation 1", "generation 2"]


def test_workers_of_a_prefork_server_send_what_they_flush(child: Child, langfuse: FakeLangfuse) -> None:
    """Workers that end by ``os._exit`` run nothing at their exit, so they have to flush."""
    child.run(
        """
        call("at start")
        assert provider.force_flush()
        workers = []
        for worker in range(3):
            workers.append(os.fork())
            if not workers[-1]:
                for request in range(4):
                    call(f"worker {worker} request {request}")
                os._exit(0 if provider.force_flush() else 1)
        assert [os.waitpid(worker, 0)[1] for worker in workers] == [0, 0, 0]
        """
    )
    served = [f"worker {worker} request {request}" for worker in range(3) for request in range(4)]
    assert names(langfuse) == ["at start", *served]


def test_a_fork_while_other_threads_are_at_work_does_not_lock_up(child: Child, langfuse: FakeLangfuse) -> None:
    child.run(
        """
        stop = threading.Event()
        def work():
            while not stop.is_set():
                with tracer.start_as_current_span("left out"):
                    pass
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(20):
            children.append(os.fork())
            if not children[-1]:
                call(f"child {number:02}")
                os._exit(0 if provider.force_flush(10_000) else 1)
        stop.set()
        for thread in threads:
            thread.join()
        assert not any(os.waitpid(child, 0)[1] for child in children)
        """
    )
    assert names(langfuse) == [f"child {number:02}" for number in range(20)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_send_before_they_end(child: Child, langfuse: FakeLangfuse, method: str) -> None:
    child.run(
        f"""
        import multiprocessing
        if __name__ == "__main__":
            call("in the parent")
            context = multiprocessing.get_context("{method}")
            children = [context.Process(target=call, args=(f"child {{number}}",)) for number in range(2)]
            for process in children:
                process.start()
            for process in children:
                process.join()
            assert [process.exitcode for process in children] == [0, 0]
        """
    )
    assert names(langfuse) == ["child 0", "child 1", "in the parent"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_process_pool_send_before_they_end(child: Child, langfuse: FakeLangfuse, method: str) -> None:
    child.run(
        f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        if __name__ == "__main__":
            with ProcessPoolExecutor(2, multiprocessing.get_context("{method}")) as pool:
                list(pool.map(call, [f"task {{number}}" for number in range(6)]))
        """
    )
    assert names(langfuse) == [f"task {number}" for number in range(6)]


# ------------------------------------------------------------------------------------------------ dead neighbours


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def refusing() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("ending", ["pass", "provider.shutdown()"])
def test_a_dead_exporter_in_front_does_not_keep_ours_from_sending(child: Child, langfuse: FakeLangfuse, ending: str) -> None:
    child.run(f"call('chat')\n{ending}\n", DEAD_TEMPO=refusing())
    assert names(langfuse) == ["chat"]


@pytest.mark.parametrize("ending", ["pass", "provider.shutdown()"])
def test_an_exporter_in_front_that_hangs_does_not_keep_ours_from_sending(
    child: Child, langfuse: FakeLangfuse, ending: str
) -> None:
    with silent() as address:
        said = child.run(f"call('chat')\n{ending}\n", DEAD_TEMPO=address)
    assert names(langfuse) == ["chat"]
    assert "otel-langfuse" not in said


def test_flush_keeps_its_deadline_when_langfuse_hangs(langfuse: FakeLangfuse) -> None:
    langfuse.script([hang()])
    with bench(langfuse, timeout=30.0, shutdown_timeout=0.1) as (provider, processor):
        call(provider)
        began = time.monotonic()
        assert not processor.force_flush(300)
        assert 0.2 < time.monotonic() - began < 2


def test_shutdown_keeps_its_deadline_when_langfuse_hangs(langfuse: FakeLangfuse) -> None:
    langfuse.script([hang()])
    with bench(langfuse, timeout=30.0, shutdown_timeout=0.3) as (provider, processor):
        call(provider)
        began = time.monotonic()
        processor.shutdown()
        processor.shutdown()
        assert 0.2 < time.monotonic() - began < 2
        assert processor.status()["dropped"] == {"shutdown": 1}


def test_the_process_keeps_the_deadline_of_the_setting_when_langfuse_hangs(child: Child, langfuse: FakeLangfuse) -> None:
    langfuse.script([hang()])
    began = time.monotonic()
    said = child.run("call('chat')\n", OTEL_LANGFUSE_SHUTDOWN_TIMEOUT="0.3", LANGFUSE_TIMEOUT="30")
    assert time.monotonic() - began < 10
    assert "reason=shutdown, now 1" in said
    assert langfuse.wait_for_requests(0)
    assert langfuse.spans == []


def test_what_ends_after_shutdown_is_counted(langfuse: FakeLangfuse) -> None:
    with bench(langfuse) as (provider, processor):
        call(provider, "in time")
        late = provider.get_tracer("genai.lib").start_span("late", attributes=CALL)
        processor.shutdown()
        late.end()
        assert processor.force_flush(1000)
        assert names(langfuse) == ["in time"]
        assert processor.status()["dropped"] == {"shutdown": 1}


# ------------------------------------------------------------------------------------------------------- threads


def test_spans_of_many_threads_arrive_once_each(langfuse: FakeLangfuse) -> None:
    threads, spans = 8, 500
    barrier = threading.Barrier(threads)
    with bench(langfuse) as (provider, processor):

        def work(thread: int) -> None:
            barrier.wait()
            for number in range(spans):
                call(provider, f"{thread}/{number}")

        started = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        assert processor.force_flush(20_000)
        arrived = Counter(names(langfuse))
        assert arrived == Counter(f"{thread}/{number}" for thread in range(threads) for number in range(spans))
        assert processor.status()["counters"]["sent"] == threads * spans
        assert processor.status()["dropped"] == {}
        assert processor.status()["queue_bytes"] == 0


def test_flushing_from_many_threads_at_once_settles_all(langfuse: FakeLangfuse) -> None:
    results: list[bool] = []
    with bench(langfuse, flush_interval=60.0) as (provider, processor):

        def work(thread: int) -> None:
            call(provider, str(thread))
            results.append(processor.force_flush(10_000) and str(thread) in names(langfuse))

        started = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    assert results == [True] * 8


# ------------------------------------------------------------------------------------------------------- the bound


class Busy:
    """Keeps the worker in a job until the end of the block."""

    def __init__(self, processor: LangfuseSpanProcessor) -> None:
        assert processor.engine is not None
        self._engine = processor.engine
        self._running, self._release = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self._engine.submit(self._hold, 1)
        self._engine.force_flush(0)  # wakes the worker
        assert self._running.wait(10)

    def _hold(self, _: object) -> None:
        self._running.set()
        self._release.wait(30)

    def __exit__(self, *_: object) -> None:
        self._release.set()


def test_large_spans_after_small_ones_stay_within_the_bound(langfuse: FakeLangfuse) -> None:
    """The worker weighs nothing meanwhile: what it has seen so far says nothing about what comes."""
    bound, large = 4 << 20, "x" * (256 << 10)
    with bench(langfuse, queue_bytes=bound) as (provider, processor):
        for _ in range(100):
            call(provider)
        assert processor.force_flush(10_000)
        with Busy(processor):
            for number in range(100):
                call(provider, f"large {number}", text=large)
            held = processor.status()["queue_bytes"]
            assert bound / 2 < held <= bound + 2 * len(large), "weighed"
            dropped = processor.status()["dropped"]["queue_full"]
            # Those that nobody has weighed yet are as many as the bound has quarters of a megabyte.
            assert 100 - dropped <= 2 * bound / len(large) + 2
        assert processor.force_flush(20_000)
        assert processor.status()["queue_bytes"] == 0
        assert processor.status()["counters"]["sent"] + sum(processor.status()["dropped"].values()) == 200


def test_a_burst_of_fifty_thousand_spans_loses_none(langfuse: FakeLangfuse) -> None:
    """With the default bound, and though the worker is slow: it stands still during a part of the burst."""
    text = "x" * 4096
    with bench(langfuse) as (provider, processor):
        tracer = provider.get_tracer("shop")
        with Busy(processor):
            for _ in range(25_000):
                tracer.start_span("query", attributes={"text": text}).end()
        for _ in range(25_000):
            tracer.start_span("query", attributes={"text": text}).end()
        assert processor.force_flush(60_000)
        status = processor.status()
        assert (status["counters"]["spans_in"], status["dropped"], status["queue_bytes"]) == (50_000, {}, 0)


def test_a_span_is_read_as_it_was_when_it_started_and_ended(langfuse: FakeLangfuse) -> None:
    """However late the worker is: the context of the start is that of the start."""
    with bench(langfuse) as (provider, processor), Busy(processor):
        for name in ("one", "two"):
            with propagate_attributes(user_id=f"user {name}"):
                span = provider.get_tracer("genai.lib").start_span(name, attributes=CALL)
            span.set_attribute("gen_ai.response.model", "answering")
            span.end()
    rows = [attributes(langfuse, name) for name in ("one", "two")]
    assert [row["langfuse.user.id"] for row in rows] == ["user one", "user two"]
    assert {row["langfuse.observation.model.name"] for row in rows} == {"answering"}


# ------------------------------------------------------------------------------------------------------- sampling


class ByName(Sampler):
    """Decides by the first word of a span's name."""

    decisions = {"unsampled": Decision.RECORD_ONLY, "dropped": Decision.DROP}  # noqa: RUF012

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Sequence[Any] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        return SamplingResult(self.decisions.get(name.split()[0], Decision.RECORD_AND_SAMPLE), attributes)

    def get_description(self) -> str:
        return "by name"


def test_spans_that_are_only_recorded_are_not_sent(langfuse: FakeLangfuse) -> None:
    with bench(langfuse, sampler=ByName()) as (provider, processor):
        call(provider, "unsampled chat")
        call(provider, "dropped chat")
        call(provider, "chat")
        assert processor.force_flush(10_000)
        assert names(langfuse) == ["chat"]


@pytest.mark.parametrize("middle", ["unsampled", "dropped"])
def test_a_span_that_is_not_sampled_does_not_break_the_tree(langfuse: FakeLangfuse, middle: str) -> None:
    """Its children have a parent that no backend knows: they are entries of their own, not orphans."""
    tracer_of = "genai.lib"
    with bench(langfuse, sampler=ByName()) as (provider, processor):
        tracer = provider.get_tracer(tracer_of)
        with tracer.start_as_current_span("turn"):
            call(provider, "first")
            with tracer.start_as_current_span(middle):
                call(provider, "second")
        assert processor.force_flush(10_000)
        assert names(langfuse) == ["first", "second", "turn"]
        rows = {span.name: span for span in langfuse.spans}
        known = {span.span_id for span in langfuse.spans} | {b""}
        assert {span.parent_span_id for span in langfuse.spans} <= known
        assert rows["turn"].parent_span_id == b""
        assert rows["first"].parent_span_id == rows["turn"].span_id


# ---------------------------------------------------------------------------------------------- the SDK's limits


@pytest.fixture
def numbered(langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture) -> tuple[dict[str, str], dict[str, int]]:
    """The row and the counts of 200 messages, two attributes each as older OpenLLMetry writes them: the limit is 128."""
    logging.getLogger("opentelemetry.attributes").setLevel(logging.ERROR)
    with bench(langfuse) as (provider, processor):
        tracer = provider.get_tracer("opentelemetry.instrumentation.openai.v1")
        with tracer.start_as_current_span("openai.chat", attributes={"llm.request.type": "chat"}) as span:
            span.set_attribute("gen_ai.system", "OpenAI")
            span.set_attribute("gen_ai.request.model", "gpt-4o-mini")
            for number in range(200):
                span.set_attribute(f"gen_ai.prompt.{number}.role", "user" if number % 2 else "assistant")
                span.set_attribute(f"gen_ai.prompt.{number}.content", f"message {number}")
            span.set_attribute("gen_ai.response.model", "gpt-4o-mini-2024-07-18")
            span.set_attribute("gen_ai.usage.prompt_tokens", 700)
            span.set_attribute("gen_ai.usage.completion_tokens", 30)
            span.set_attribute("gen_ai.completion.0.role", "assistant")
            span.set_attribute("gen_ai.completion.0.content", "the answer")
        assert processor.force_flush(10_000)
        assert any("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT" in message for message in caplog.messages)
        return attributes(langfuse, "openai.chat"), processor.status()["counters"]


def test_two_hundred_messages_leave_a_generation_with_usage_and_the_newest(
    numbered: tuple[dict[str, str], dict[str, int]],
) -> None:
    row, counted = numbered
    assert row["langfuse.observation.type"] == "generation"
    assert json.loads(row["langfuse.observation.usage_details"]) == {"input": 700, "output": 30, "total": 730}
    said = [message["content"] for message in json.loads(row["langfuse.observation.input"])]
    assert len(said) > 50
    assert said == [f"message {number}" for number in range(200 - len(said), 200)]
    assert json.loads(row["langfuse.observation.output"])["content"] == "the answer"
    assert counted["attributes_dropped_by_sdk"] == 409 - 128, "the link is one more attribute"


def test_two_hundred_messages_leave_the_model_that_answered(numbered: tuple[dict[str, str], dict[str, int]]) -> None:
    row, _ = numbered
    assert row["langfuse.observation.model.name"] == "gpt-4o-mini-2024-07-18"


# ------------------------------------------------------------------------------------------- what it says of itself


def test_status_tells_where_it_sends_and_what_happened(langfuse: FakeLangfuse) -> None:
    with bench(langfuse, environment="test") as (provider, processor):
        call(provider)
        assert processor.force_flush(10_000)
        status = processor.status()
    assert status["enabled"] is True
    assert status["initialized"] is True
    assert status["host"] == langfuse.url
    assert status["public_key_configured"] is True
    assert status["secret_key_configured"] is True
    assert status["environment"] == "test"
    assert status["counters"]["sent"] == 1
    assert status["dropped"] == {}
    assert status["queue_bytes"] == 0
    assert status["last_error"] is None
    json.dumps(status)


def test_status_without_keys_says_that_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    processor = LangfuseSpanProcessor()
    status = processor.status()
    assert (status["initialized"], status["public_key_configured"], status["counters"]) == (False, False, {})
    assert len(caplog.messages) == 1
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    call(provider)
    assert provider.force_flush()
    provider.shutdown()
    assert len(caplog.messages) == 1


def test_no_secret_and_no_prompt_shows_anywhere(langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    langfuse.reject_if(lambda _: True)
    secret = "sk-lf-not-the-one-of-the-project"
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "PROMPT-TEXT"}]}])
    with bench(langfuse, secret_key=secret, headers={"x-token": "header-secret"}, debug=True) as (provider, processor):
        call(provider, **{"gen_ai.input.messages": messages})
        processor.force_flush(10_000)
        status = processor.status()
    assert status["dropped"] == {"unauthorized": 1}
    assert status["last_error"]["status"] == 401
    shown = [repr(processor), repr(processor.settings), repr(status), repr(processor.engine), caplog.text]
    for text in shown:
        assert secret not in text
        assert "header-secret" not in text
        assert "PROMPT-TEXT" not in text


def test_the_link_is_on_the_first_generation_and_on_the_entry(langfuse: FakeLangfuse) -> None:
    with bench(langfuse) as (provider, _):
        tempo = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(tempo))
        with provider.get_tracer("shop").start_as_current_span("POST /ask") as entry:
            call(provider, "first")
            call(provider, "second")
        links = {span.name: (span.attributes or {}).get("langfuse.trace.url") for span in tempo.get_finished_spans()}
    url = f"{langfuse.url}/trace/{entry.get_span_context().trace_id:032x}"
    assert links == {"first": url, "second": None, "POST /ask": url}


# -------------------------------------------------------------------------------------------------- log records


def test_content_of_log_records_joins_its_span(langfuse: FakeLangfuse) -> None:
    logs = LoggerProvider(shutdown_on_exit=False)
    logs.add_log_record_processor(LangfuseLogRecordProcessor())
    asked = [{"role": "user", "parts": [{"type": "text", "content": "asked in a log record"}]}]
    with bench(langfuse) as (provider, processor):
        with provider.get_tracer("genai.lib").start_as_current_span("chat", attributes=CALL) as span:
            for name, text in (("gen_ai.client.inference.operation.details", asked), ("other.event", "not ours")):
                record = LogRecord(
                    event_name=name, attributes={"gen_ai.input.messages": text}, context=set_span_in_context(span)
                )
                logs.get_logger("genai.lib").emit(record)
        assert processor.force_flush(10_000)
        row = attributes(langfuse)
        assert json.loads(row["langfuse.observation.input"])[0]["content"] == "asked in a log record"
        assert processor.status()["counters"]["content_joined"] == 1
    logs.shutdown()


# ----------------------------------------------------------------------------------------------- the host's border


@pytest.mark.parametrize("method", ["on_start", "on_end", "force_flush", "shutdown"])
def test_nothing_raises_into_the_application(
    langfuse: FakeLangfuse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("PROMPT-TEXT")

    monkeypatch.setattr("otel_langfuse.sdk.processor._may_log", OncePerInterval())

    with bench(langfuse) as (provider, processor):
        engine = processor.engine
        assert engine is not None
        target: Any = engine.queue if method.startswith("on_") else engine
        with monkeypatch.context() as patch:
            # What takes a start, an end: no worker runs yet, so neither goes the short way.
            patch.setattr(target, "add" if method.startswith("on_") else method, broken)
            for _ in range(3):
                call(provider)
            use: dict[str, Callable[[], object]] = {"force_flush": processor.force_flush, "shutdown": processor.shutdown}
            use.get(method, lambda: None)()
    assert len([message for message in caplog.messages if f"RuntimeError in {method}" in message]) == 1
    assert "PROMPT-TEXT" not in caplog.text
