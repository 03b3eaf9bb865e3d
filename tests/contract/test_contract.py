"""The twelve rules of the contract, each by name, through public interfaces: a real tracer provider, real requests."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, set_span_in_context

from otel_langfuse import LangfuseSpanProcessor, propagate_attributes
from otel_langfuse.testing import FakeLangfuse

KEYS: dict[str, Any] = {"public_key": "pk-lf-1", "secret_key": "sk-lf-1"}
MESSAGES = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "What is the capital of France?"}]}])
ANSWER = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "Paris."}]}])
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.input.messages": MESSAGES,
    "gen_ai.output.messages": ANSWER,
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 3,
}


class Bench:
    """An application with two backends: a Tempo stand-in that keeps the SDK's spans, and Langfuse."""

    def __init__(self, langfuse: FakeLangfuse, **settings: Any) -> None:
        self.langfuse = langfuse
        self.tempo = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.processor = LangfuseSpanProcessor(base_url=langfuse.url, **{**KEYS, **settings})
        self.provider.add_span_processor(self.processor)
        self.provider.add_span_processor(SimpleSpanProcessor(self.tempo))
        self.tracer = self.provider.get_tracer("shop")
        self.genai = self.provider.get_tracer("genai.lib")

    def call(self, **attributes: Any) -> None:
        with self.genai.start_as_current_span("chat", attributes={**CALL, **attributes}):
            pass

    def turn(self, number: int) -> None:
        with (
            self.tracer.start_as_current_span(f"turn {number}"),
            self.genai.start_as_current_span(f"chat {number}", attributes=CALL),
        ):
            pass

    def flush(self) -> dict[str, dict[str, Any]]:
        """Langfuse's rows by span name, with ``id``, ``trace`` and ``parent``."""
        assert self.provider.force_flush(10_000)
        rows = {}
        for span in self.langfuse.spans:
            row: dict[str, Any] = {"id": span.span_id, "trace": span.trace_id, "parent": span.parent_span_id}
            for pair in span.attributes:
                kind = pair.value.WhichOneof("value")
                row[pair.key] = (
                    [item.string_value for item in pair.value.array_value.values]
                    if kind == "array_value"
                    else getattr(pair.value, kind)
                )
            assert span.name not in rows, "a row twice"
            rows[span.name] = row
        return rows

    def sent(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.tempo.get_finished_spans() if span.name == name]
        return found


@pytest.fixture
def langfuse() -> Iterator[FakeLangfuse]:
    with FakeLangfuse() as server:
        yield server


@pytest.fixture
def bench(langfuse: FakeLangfuse) -> Iterator[Bench]:
    found = Bench(langfuse)
    yield found
    found.provider.shutdown()


def test_rule_1_same_ids(bench: Bench) -> None:
    with bench.tracer.start_as_current_span("turn"):
        bench.call()
    rows = bench.flush()
    for name in ("turn", "chat"):
        context = bench.sent(name).context
        assert context is not None
        assert rows[name]["id"] == context.span_id.to_bytes(8, "big")
        assert rows[name]["trace"] == context.trace_id.to_bytes(16, "big")


def test_rule_2_the_given_span_is_never_changed_but_for_the_link(bench: Bench) -> None:
    with bench.tracer.start_as_current_span("turn", attributes={"a": 1}):
        bench.call()
        bench.call(extra="second")
    first, second = [span for span in bench.tempo.get_finished_spans() if span.name == "chat"]
    url = f"{bench.langfuse.url}/trace/{first.context.trace_id:032x}"  # type: ignore[union-attr]
    assert dict(first.attributes or {}) == {**CALL, "langfuse.trace.url": url}
    assert dict(second.attributes or {}) == {**CALL, "extra": "second"}
    assert dict(bench.sent("turn").attributes or {}) == {"a": 1, "langfuse.trace.url": url}


def test_rule_2_the_link_can_be_turned_off(langfuse: FakeLangfuse) -> None:
    bench = Bench(langfuse, set_trace_url=False)
    with bench.tracer.start_as_current_span("turn"):
        bench.call()
    assert dict(bench.sent("chat").attributes or {}) == CALL
    assert not bench.sent("turn").attributes
    bench.provider.shutdown()


def test_rule_3_noise_is_left_out_and_the_entry_is_kept(bench: Bench) -> None:
    with bench.tracer.start_as_current_span("GET /healthz"):
        pass
    with (
        bench.tracer.start_as_current_span("POST /ask"),
        bench.tracer.start_as_current_span("middleware"),
        bench.tracer.start_as_current_span("SELECT"),
    ):
        bench.call()
    rows = bench.flush()
    assert set(rows) == {"/ask", "chat"}
    assert rows["/ask"]["parent"] == b""
    assert rows["/ask"]["langfuse.internal.is_app_root"] is True
    assert rows["chat"]["parent"] == rows["/ask"]["id"]
    assert json.loads(rows["/ask"]["langfuse.observation.input"])["content"] == "What is the capital of France?"
    assert json.loads(rows["/ask"]["langfuse.observation.output"])["content"] == "Paris."
    assert {row["langfuse.trace.name"] for row in rows.values()} == {"/ask"}


def test_rule_3_an_agent_that_ends_after_its_calls_is_their_parent(bench: Bench) -> None:
    with (
        bench.tracer.start_as_current_span("turn"),
        bench.genai.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}),
    ):
        bench.call()
        assert bench.provider.force_flush(10_000), "the call is sent before the agent ends"
    rows = bench.flush()
    assert rows["chat"]["parent"] == rows["agent"]["id"]
    assert rows["agent"]["parent"] == rows["turn"]["id"]


def test_rule_3_a_remote_parent_that_was_never_seen_makes_an_entry(bench: Bench) -> None:
    remote = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with bench.tracer.start_as_current_span("job", context=set_span_in_context(NonRecordingSpan(remote))):
        bench.call()
    rows = bench.flush()
    assert rows["job"]["parent"] == b""
    assert rows["job"]["trace"] == (0xABC).to_bytes(16, "big")
    assert rows["chat"]["parent"] == rows["job"]["id"]


def test_rule_3_a_local_parent_with_a_remote_flag_is_found_by_its_id(bench: Bench) -> None:
    with bench.tracer.start_as_current_span("turn") as turn:
        context = turn.get_span_context()
        flagged = SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=context.trace_flags)
        with bench.genai.start_as_current_span("chat", context=set_span_in_context(NonRecordingSpan(flagged)), attributes=CALL):
            pass
    rows = bench.flush()
    assert rows["chat"]["parent"] == rows["turn"]["id"]


def test_rule_3_children_on_other_threads_and_tasks_stay_below(bench: Bench) -> None:
    async def ask() -> None:
        bench.call()

    with bench.tracer.start_as_current_span("turn") as turn:
        context = set_span_in_context(turn)

        def work() -> None:
            with bench.genai.start_as_current_span("in thread", context=context, attributes=CALL):
                pass

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        asyncio.run(ask())
    rows = bench.flush()
    assert rows["in thread"]["parent"] == rows["chat"]["parent"] == rows["turn"]["id"]


def test_rule_3_work_in_the_background_finds_its_ended_entry(bench: Bench) -> None:
    """The request has ended, and nothing in it was GenAI, when its background task makes a call."""
    with bench.tracer.start_as_current_span("POST /later") as entry:
        context = set_span_in_context(entry)
    with bench.genai.start_as_current_span("chat", context=context, attributes=CALL):
        pass
    rows = bench.flush()
    assert rows["chat"]["parent"] == rows["/later"]["id"]
    assert rows["/later"]["parent"] == b""


def test_rule_3_an_entry_that_never_ends_gets_a_placeholder(bench: Bench) -> None:
    entry = bench.tracer.start_span("daemon")
    with bench.genai.start_as_current_span("chat", context=set_span_in_context(entry), attributes=CALL):
        pass
    bench.processor.shutdown()
    rows = {span.name: span for span in bench.langfuse.spans}
    assert rows["chat"].parent_span_id == rows["daemon"].span_id
    assert not rows["daemon"].parent_span_id
    assert rows["daemon"].start_time_unix_nano == entry.start_time  # type: ignore[attr-defined]
    assert "langfuse.observation.metadata.incomplete" in [pair.key for pair in rows["daemon"].attributes]


def test_rule_4_each_span_goes_once(bench: Bench) -> None:
    for number in range(20):
        bench.turn(number)
        if number % 7 == 0:
            assert bench.provider.force_flush(10_000)
    assert len(bench.flush()) == 40


def test_rule_5_context_is_on_every_span(bench: Bench) -> None:
    with (
        propagate_attributes(user_id="u", session_id="s", tags=["x"], metadata={"tenant": "t"}, trace_name="Ask"),
        bench.tracer.start_as_current_span("turn"),
    ):
        bench.call()
    for row in bench.flush().values():
        assert row["langfuse.user.id"] == "u"
        assert row["langfuse.session.id"] == "s"
        assert row["langfuse.trace.tags"] == ["x"]
        assert row["langfuse.trace.metadata.tenant"] == "t"
        assert row["langfuse.trace.name"] == "Ask"


def test_rule_5_it_flows_down_from_ancestors_and_up_to_the_entry(bench: Bench) -> None:
    with bench.tracer.start_as_current_span("turn", attributes={"user.id": "from the request"}):
        bench.call(**{"gen_ai.conversation.id": "conversation 9"})
    rows = bench.flush()
    assert {row["langfuse.user.id"] for row in rows.values()} == {"from the request"}
    assert {row["langfuse.session.id"] for row in rows.values()} == {"conversation 9"}
    assert rows["chat"]["langfuse.observation.metadata.conversation_id"] == "conversation 9"


def test_rule_5_precedence(bench: Bench) -> None:
    with (
        bench.tracer.start_as_current_span("turn", attributes={"user.id": "ancestor", "session.id": "ancestor"}),
        propagate_attributes(user_id="propagated"),
    ):
        bench.call(**{"user.id": "span", "session.id": "span", "gen_ai.conversation.id": "conversation"})
    row = bench.flush()["chat"]
    assert (row["langfuse.user.id"], row["langfuse.session.id"]) == ("propagated", "span")


def test_rule_5_environment_is_normalised_and_said_once(langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(langfuse, environment="Staging")
    with caplog.at_level(logging.WARNING):
        with bench.tracer.start_as_current_span("turn"):
            bench.call()
        rows = bench.flush()
    assert {row["langfuse.environment"] for row in rows.values()} == {"staging"}
    assert len([record for record in caplog.records if "environment" in record.getMessage()]) == 1
    bench.provider.shutdown()


def test_rule_6_explicit_and_nothing_else(bench: Bench) -> None:
    bench.call(**{"input.value": "x", "tag.tags": "y", "my.key": 7, "langfuse_user_id": "z", "tools": "w"})
    (row,) = bench.flush().values()
    assert not [key for key in row if key not in ("id", "trace", "parent") and not key.startswith("langfuse.")]
    assert row["langfuse.observation.metadata.my.key"] == "7"
    assert row["langfuse.observation.metadata.operation"] == "chat"
    assert "langfuse.observation.metadata.tools" not in row
    assert "langfuse.observation.metadata.langfuse_user_id" not in row
    assert not [key for key, value in row.items() if "metadata" in key and "capital of France" in str(value)]


def test_rule_7_content_has_one_shape(bench: Bench) -> None:
    given = [
        {"role": "user", "parts": [{"type": "text", "content": "weather?"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "w", "arguments": {"city": "Paris"}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "sunny"}]},
    ]
    tools = [{"type": "function", "name": "w", "parameters": {"type": "object"}}]
    bench.call(
        **{
            "gen_ai.input.messages": json.dumps(given),
            "gen_ai.tool.definitions": json.dumps(tools),
            "gen_ai.system_instructions": '[{"type":"text","content":"Be brief."}]',
        }
    )
    shown = json.loads(bench.flush()["chat"]["langfuse.observation.input"])
    assert shown["messages"][0] == {"role": "system", "content": "Be brief."}
    assert shown["messages"][2]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"city":"Paris"}'}}
    ]
    assert shown["messages"][3] == {"role": "tool", "content": "sunny", "tool_call_id": "c1"}
    assert shown["tools"] == [{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}]


def test_rule_8_tokens_are_counted_once(bench: Bench) -> None:
    """Two instrumentations of one call, nested: one generation, and a plain span that says so."""
    outer = bench.provider.get_tracer("opentelemetry.instrumentation.openai.v1")
    given = {key: value for key, value in CALL.items() if "messages" not in key}
    with (
        bench.tracer.start_as_current_span("turn"),
        outer.start_as_current_span("outer", attributes=CALL),
        bench.genai.start_as_current_span("inner", attributes={**given, "gen_ai.usage.cache_read.input_tokens": 4}),
    ):
        pass
    rows = bench.flush()
    assert rows["outer"]["langfuse.observation.type"] == "generation"
    usage = json.loads(rows["outer"]["langfuse.observation.usage_details"])
    assert usage == {"input": 6, "output": 3, "input_cached_tokens": 4, "total": 13}
    assert rows["inner"]["langfuse.observation.type"] == "span"
    assert rows["inner"]["langfuse.observation.metadata.duplicate_of"] == rows["outer"]["id"].hex()
    assert not [key for key in rows["inner"] if "usage" in key or "model.name" in key or "cost" in key]


def test_rule_8_two_real_calls_below_one_span_are_never_merged(bench: Bench) -> None:
    outer = bench.provider.get_tracer("framework")
    with outer.start_as_current_span("outer", attributes=CALL):
        for number in (1, 2):
            with bench.genai.start_as_current_span(f"try {number}", attributes=CALL):
                pass
    types = {name: row["langfuse.observation.type"] for name, row in bench.flush().items()}
    assert types == {"outer": "span", "try 1": "generation", "try 2": "generation"}


def test_rule_8_an_agent_that_repeats_its_calls_carries_no_usage(bench: Bench) -> None:
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "gpt-4o-mini"}
    counts = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 3}
    with bench.genai.start_as_current_span("with calls", attributes={**agent, **counts}):
        bench.call()
    with bench.genai.start_as_current_span("alone", attributes={**agent, **counts}):
        pass
    rows = bench.flush()
    assert "langfuse.observation.usage_details" not in rows["with calls"]
    assert "langfuse.observation.model.name" not in rows["with calls"]
    assert json.loads(rows["alone"]["langfuse.observation.usage_details"])["total"] == 13


def test_rule_8_a_failed_call_costs_nothing(bench: Bench) -> None:
    given = {key: value for key, value in CALL.items() if "usage" not in key and "output" not in key}
    with bench.genai.start_as_current_span("failed", attributes=given) as span:
        span.set_status(StatusCode.ERROR, "429 rate limit")
    row = bench.flush()["failed"]
    assert row["langfuse.observation.level"] == "ERROR"
    assert row["langfuse.observation.status_message"] == "429 rate limit"
    assert json.loads(row["langfuse.observation.cost_details"])["total"] == 0


def test_rule_9_nothing_raises_into_the_host(langfuse: FakeLangfuse, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("a user's bug with a secret in it")

    provider = TracerProvider()
    processor = LangfuseSpanProcessor(base_url=langfuse.url, mask=broken, should_export=broken, **KEYS)
    provider.add_span_processor(processor)
    with caplog.at_level(logging.WARNING), provider.get_tracer("x").start_as_current_span("chat", attributes=CALL):
        pass
    assert processor.force_flush(10_000)
    assert [span.name for span in langfuse.spans] == ["chat"]
    assert "a user's bug" not in caplog.text
    provider.shutdown()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"public_key": "pk-lf-1"},
        {"base_url": "not a url", **KEYS},
        {"sample_rate": "many", "timeout": "soon", **KEYS},
        {"enabled": False, **KEYS},
    ],
    ids=["no keys", "half", "bad url", "bad numbers", "off"],
)
def test_rule_9_bad_settings_leave_the_application_alone(settings: dict[str, Any]) -> None:
    provider = TracerProvider()
    processor = LangfuseSpanProcessor(transport=_Refusing(), **settings)
    provider.add_span_processor(processor)
    with provider.get_tracer("x").start_as_current_span("chat", attributes=CALL):
        pass
    works = bool(settings.get("secret_key")) and settings.get("enabled", True) and "base_url" not in settings
    assert processor.status()["initialized"] is works
    processor.force_flush(100)
    provider.shutdown()


class _Refusing:
    """A destination that refuses everything at once, for good."""

    def post(self, body: bytes, *, compressed: bool, timeout: float) -> Any:
        from otel_langfuse.langfuse.transport import Answer

        return Answer(403, {}, b"")


def test_rule_10_bounded_and_counted(langfuse: FakeLangfuse) -> None:
    """A queue that is full loses the newest span, with a reason and a number."""
    bench = Bench(langfuse, queue_bytes=1)
    release = threading.Event()
    running = threading.Event()

    def hold(_: object) -> None:
        running.set()
        release.wait(10)

    engine = bench.processor.engine
    assert engine is not None
    engine.submit(hold, 64)
    bench.provider.force_flush(0)  # wakes the worker
    assert running.wait(10)
    for _ in range(10):
        bench.call()
    release.set()
    bench.provider.force_flush(10_000)
    status = bench.processor.status()
    delivered, dropped = status["counters"].get("sent", 0), sum(status["dropped"].values())
    assert delivered + dropped == 10
    assert dropped > 0
    assert set(status["dropped"]) == {"queue_full"}
    bench.provider.shutdown()


def test_rule_10_what_the_sdk_dropped_is_counted(bench: Bench) -> None:
    with bench.genai.start_as_current_span("chat", attributes=CALL) as span:
        for number in range(200):
            span.set_attribute(f"filler.{number}", number)
    row = bench.flush()["chat"]
    assert row["langfuse.observation.type"] == "generation", "start attributes survive the SDK's limit"
    assert bench.processor.status()["counters"]["attributes_dropped_by_sdk"] > 0


def test_rule_11_masking_covers_content_metadata_and_status(langfuse: FakeLangfuse) -> None:
    bench = Bench(langfuse, mask=("email",))
    secret = "bob@example.com"
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": f"I am {secret}"}]}])
    with (
        bench.tracer.start_as_current_span("turn", attributes={"note": secret}),
        bench.genai.start_as_current_span("chat", attributes={**CALL, "gen_ai.input.messages": messages}) as span,
    ):
        span.set_status(StatusCode.ERROR, f"no such user {secret}")
    rows = bench.flush()
    assert "[email]" in rows["chat"]["langfuse.observation.input"]
    assert "[email]" in rows["turn"]["langfuse.observation.metadata.note"]
    assert not any(secret.encode() in request.body for request in bench.langfuse.requests)
    bench.provider.shutdown()


def test_rule_11_a_masker_that_raises_costs_the_content_not_the_secret(langfuse: FakeLangfuse) -> None:
    def broken(value: object, field: str) -> object:
        raise ValueError(value)

    provider = TracerProvider()
    processor = LangfuseSpanProcessor(base_url=langfuse.url, mask=broken, **KEYS)
    provider.add_span_processor(processor)
    with provider.get_tracer("x").start_as_current_span("chat", attributes=CALL):
        pass
    assert processor.force_flush(10_000)
    (span,) = langfuse.spans
    shown = {pair.key: pair.value.string_value for pair in span.attributes}
    assert shown["langfuse.observation.input"] == "[masking failed]"
    assert shown["langfuse.observation.model.name"] == "gpt-4o-mini"
    assert "Paris" not in str(span)
    provider.shutdown()


def test_rule_11_a_mask_that_is_not_known_lets_nothing_through(langfuse: FakeLangfuse) -> None:
    bench = Bench(langfuse, mask=("emial",))
    bench.call()
    row = bench.flush()["chat"]
    assert row["langfuse.observation.input"] == "[masking failed]"
    bench.provider.shutdown()


def test_rule_12_content_can_stay_out_of_langfuse_altogether(langfuse: FakeLangfuse) -> None:
    bench = Bench(langfuse, capture_content=False)
    bench.call(**{"gen_ai.tool.description": "what the capital of France is for", "my.count": 3})
    row = bench.flush()["chat"]
    assert "langfuse.observation.input" not in row
    assert row["langfuse.observation.metadata.my.count"] == "3"
    assert "langfuse.observation.output" not in row
    assert not any(b"capital of France" in request.body for request in langfuse.requests)
    bench.provider.shutdown()


def test_rule_12_sampling_below_the_sampler_is_by_trace(langfuse: FakeLangfuse) -> None:
    bench = Bench(langfuse, sample_rate=0.5)
    for number in range(60):
        bench.turn(number)
    rows = bench.flush()
    turns = {name.split()[1] for name in rows if name.startswith("turn")}
    assert turns == {name.split()[1] for name in rows if name.startswith("chat")}
    assert 5 < len(turns) < 55
    bench.provider.shutdown()


def test_rule_11_keys_that_are_passed_on_as_given_are_masked_too(langfuse: FakeLangfuse) -> None:
    bench = Bench(langfuse, mask="email")
    secret = "bob@example.com"
    bench.call(
        **{
            "langfuse.observation.metadata": f'["{secret}"]',
            "langfuse.trace.metadata": secret,
            "langfuse.experiment.item.expected_output": secret,
        }
    )
    bench.flush()
    assert not any(secret.encode() in request.body for request in langfuse.requests)
    bench.provider.shutdown()


def test_rule_12_content_off_covers_explicit_metadata(langfuse: FakeLangfuse) -> None:
    bench = Bench(langfuse, capture_content=False)
    bench.call(
        **{
            "langfuse.observation.metadata": '{"prompt": "SECRET"}',
            "langfuse.observation.metadata.messages": "SECRET",
            "langfuse.experiment.item.expected_output": "SECRET",
        }
    )
    bench.flush()
    assert not any(b"SECRET" in request.body for request in langfuse.requests)
    bench.provider.shutdown()


def test_rule_9_a_mask_that_exits_does_not_end_the_worker(langfuse: FakeLangfuse) -> None:
    def broken(value: object, field: str) -> object:
        raise SystemExit(1)

    bench = Bench(langfuse, mask=broken)
    bench.call()
    bench.call(second=2)
    assert bench.provider.force_flush(10_000)
    assert len(langfuse.spans) == 2
    bench.provider.shutdown()
