"""What one destination gets: the share of traces, and the content, measured against what was on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_langfuse.errors import PayloadError
from otel_langfuse.otlp.content import MARK
from otel_langfuse.otlp.content_keys import Holds, holds
from otel_langfuse.pipeline.options import Options
from otel_langfuse.sidecar.destinations.payloads import parse, scopes_of, take_items
from otel_langfuse.sidecar.destinations.policy import Policy
from otel_langfuse.sidecar.entry import Signal
from support import case_id, cases, load, truth

DROP = Policy(content="drop")

# Where a text of the wire may still stand after ``drop``: names of spans and agents, failures, status. ``Extract`` is the
# start of the name ``Extractor``; DSPy puts the answer that it cannot parse into its exception.
EXCEPTIONS = {
    ("genai-openai-agents-span-only/agent_structured", "Extract"),
    ("openinference-openai-agents/agent_structured", "Extract"),
    ("openinference-dspy/dspy_predict", "The capital of France is Paris."),
}


def attribute(target: Any, key: str, value: str | float) -> None:
    pair = target.attributes.add(key=key)
    if isinstance(value, str):
        pair.value.string_value = value
    else:
        pair.value.int_value = int(value)


def one_span(scope: str = "app", **attributes: Any) -> bytes:
    request = ExportTraceServiceRequest()
    scoped = request.resource_spans.add().scope_spans.add()
    scoped.scope.name = scope
    span = scoped.spans.add(name="call", trace_id=bytes(range(16)), span_id=bytes(range(8)))
    for key, value in attributes.items():
        attribute(span, key, value)
    return request.SerializeToString()


def after(policy: Policy, payload: bytes) -> dict[str, Any]:
    """The attributes of the one span."""
    request = ExportTraceServiceRequest.FromString(policy.apply(Signal.TRACES, payload, 1).payload)
    pairs = request.resource_spans[0].scope_spans[0].spans[0].attributes
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


def recorded(case: Path) -> Iterator[tuple[Signal, bytes]]:
    for signal, payload in zip((Signal.TRACES, Signal.LOGS), load(case), strict=True):
        if payload is not None:
            yield signal, payload


def spoken(case: Path) -> set[str]:
    """Every text and every tool's arguments that were on the wire, longer than a word."""
    found: set[str] = set()
    for call in truth(case)["calls"]:
        found.add(call["system"] or "")
        for message in call["input_messages"] + call["output"]:
            found.add(message["text"] or "")
            for made in message["tool_calls"]:
                arguments = made["arguments"]
                found |= {json.dumps(arguments), json.dumps(arguments, separators=(",", ":")), str(arguments)}
    return {text.strip() for text in found if len(text.strip()) > 3}


def forms(text: str) -> set[bytes]:
    """A text as it may stand in JSON, and in JSON within JSON."""
    once = json.dumps(text)[1:-1]
    return {form.encode() for form in (text, once, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(once)[1:-1])}


# ------------------------------------------------------------------------------------------------------------- corpus


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_nothing_that_was_said_remains(case: Path) -> None:
    texts = spoken(case)
    for signal, payload in recorded(case):
        left = DROP.apply(signal, payload, 1).payload
        remaining = {text for text in texts if any(form in left for form in forms(text))}
        assert not {text for text in remaining if (case_id(case), text) not in EXCEPTIONS}


def test_the_exceptions_are_needed_and_the_measure_finds_content() -> None:
    found = set()
    spoiled = 0
    for case in cases("*"):
        texts = spoken(case)
        for signal, payload in recorded(case):
            left = DROP.apply(signal, payload, 1).payload
            found |= {(case_id(case), text) for text in texts if any(form in left for form in forms(text))}
            spoiled += any(form in payload for text in texts for form in forms(text))
    assert found == EXCEPTIONS
    assert spoiled > 250


_KEPT = ("gen_ai.usage.", "gen_ai.response.model", "gen_ai.request.model", "llm.token_count.", "llm.model_name", "session.id",
         "user.id", "gen_ai.operation.name", "gen_ai.response.id", "openinference.span.kind", "traceloop.span.kind", "http.",
         "ai.usage.", "ai.model.", "ai.response.id", "langfuse.observation.usage_details", "langfuse.observation.model.name",
         "gen_ai.agent.name", "gen_ai.tool.name", "gen_ai.conversation.id", "db.", "server.", "gen_ai.output.type")  # fmt: skip


@pytest.mark.parametrize("policy", [DROP, Policy(content="truncate: 3")], ids=["drop", "truncate"])
@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_ids_times_names_models_and_counts_stay_and_again_changes_nothing(case: Path, policy: Policy) -> None:
    for signal, payload in recorded(case):
        once = policy.apply(signal, payload, 1).payload
        assert policy.apply(signal, payload, 1).payload == once
        assert policy.apply(signal, once, 1).payload == once
        for before, now in zip(shells(signal, payload), shells(signal, once), strict=True):
            assert before == now


def shells(signal: Signal, payload: bytes) -> Iterator[tuple[Any, ...]]:
    """What must not change, of each item."""
    for scope, items in scopes_of(signal, parse(signal, payload)):
        for item in items:
            kept = {p.key: p.value.SerializeToString() for p in item.attributes if p.key.startswith(_KEPT)}
            common = (scope.name, item.trace_id, item.span_id, item.flags, kept)
            if signal is Signal.LOGS:
                yield *common, item.event_name, item.time_unix_nano, item.severity_number
            else:
                failures = [e.SerializeToString() for e in item.events if e.name == "exception"]
                times = (item.start_time_unix_nano, item.end_time_unix_nano, [(e.name, e.time_unix_nano) for e in item.events])
                yield *common, item.name, item.kind, item.parent_span_id, times, item.status.SerializeToString(), failures


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_truncating_to_much_changes_nothing(case: Path) -> None:
    for signal, payload in recorded(case):
        assert Policy(content="truncate: 1000000").apply(signal, payload, 1).payload is payload


def test_truncating_shrinks_and_keeps_beginnings() -> None:
    whole = cut = 0
    for case in cases("*"):
        for signal, payload in recorded(case):
            whole += len(payload)
            cut += len(Policy(content="truncate: 16").apply(signal, payload, 1).payload)
    assert cut < whole * 0.85


# ---------------------------------------------------------------------------------------------------------- by example


@pytest.mark.parametrize(
    ("scope", "key"),
    [
        ("app", "gen_ai.input.messages"),
        ("app", "gen_ai.prompt.0.content"),
        ("app", "gen_ai.completion.3.tool_calls.1.arguments"),
        ("app", "llm.input_messages.12.message.contents.0.message_content.text"),
        ("app", "input.value"),
        ("app", "retrieval.documents.3.document.content"),
        ("app", "embedding.embeddings.0.embedding.text"),
        ("app", "traceloop.entity.output"),
        ("app", "ai.response.text"),
        ("app", "ai.toolCall.result"),
        ("app", "langfuse.trace.input"),
        ("app", "mlflow.spanOutputs"),
        ("app", "genkit:input"),
        ("app", "lk.user_transcript"),
        ("app", "gcp.vertex.agent.llm_request"),
        ("logfire.openai", "request_data"),
        ("pydantic-ai", "events"),
        ("pydantic-ai", "tool_response"),
        ("litellm", "llm.mistral.messages"),
        ("app", "gen_ai.some_new.message_text"),
    ],
)
def test_content_keys(scope: str, key: str) -> None:
    payload = one_span(scope, **{key: "secret words", "gen_ai.request.model": "gpt"})
    assert after(DROP, payload) == {"gen_ai.request.model": "gpt"}
    assert after(Policy(content="truncate: 6"), payload) == {key: "secret" + MARK, "gen_ai.request.model": "gpt"}


@pytest.mark.parametrize(
    "key",
    [
        "http.request.header.content-type",
        "messaging.message.id",
        "db.query.text",
        "events",
        "prompt",
        "input",
        "url.query",
        "output",
    ],
)
def test_plain_words_of_other_spans_are_let_be(key: str) -> None:
    assert after(DROP, one_span("fastapi", **{key: "value"})) == {key: "value"}


@pytest.mark.parametrize(
    "key",
    [
        "gen_ai.prompt.name", "gen_ai.prompt.version", "langfuse.observation.prompt.name", "gen_ai.response.finish_reasons",
        "input.mime_type", "gen_ai.output.type", "error.message", "gen_ai.tool.call.id", "langfuse.observation.model.name",
        "anthropic.message.stop_reason", "traceloop.prompt.key", "messaging.message.id", "http.request.header.content-type",
    ],
)  # fmt: skip
def test_what_sounds_like_content_and_is_none_stays_on_genai_spans(key: str) -> None:
    found = after(DROP, one_span("genai", **{key: "value", "gen_ai.operation.name": "chat"}))
    assert found == {key: "value", "gen_ai.operation.name": "chat"}


def test_numbers_are_content_only_under_keys_that_are_known() -> None:
    payload = one_span("pydantic-ai", tool_response=42, **{"gen_ai.usage.input_tokens": 7, "my_input_size": 3})
    assert after(DROP, payload) == {"gen_ai.usage.input_tokens": 7, "my_input_size": 3}


def test_parameters_lose_their_content_and_keep_the_rest() -> None:
    given_parameters = {"temperature": 0.5, "instructions": "be terse please", "tools": [{"name": "x"}], "model": "gpt"}
    payload = one_span(**{"llm.invocation_parameters": json.dumps(given_parameters)})
    assert json.loads(after(DROP, payload)["llm.invocation_parameters"]) == {"temperature": 0.5, "model": "gpt"}
    cut = json.loads(after(Policy(content="truncate: 2"), payload)["llm.invocation_parameters"])
    assert cut == {"temperature": 0.5, "model": "gpt", "instructions": "be" + MARK, "tools": "[{" + MARK}
    assert after(DROP, one_span(**{"llm.invocation_parameters": "{'broken"})) == {}


def test_events_of_messages_lose_what_they_say() -> None:
    request = ExportTraceServiceRequest.FromString(one_span("strands.telemetry.tracer", **{"gen_ai.operation.name": "chat"}))
    span = request.resource_spans[0].scope_spans[0].spans[0]
    choice = span.events.add(name="gen_ai.choice")
    attribute(choice, "message", "an answer")
    attribute(choice, "finish_reason", "stop")
    attribute(choice, "tool.result", "21 C")
    failure = span.events.add(name="exception")
    attribute(failure, "exception.message", "it failed")
    left = ExportTraceServiceRequest.FromString(DROP.apply(Signal.TRACES, request.SerializeToString(), 1).payload)
    events = left.resource_spans[0].scope_spans[0].spans[0].events
    assert [[pair.key for pair in event.attributes] for event in events] == [["finish_reason"], ["exception.message"]]


def record(event: str, body: AnyValue | None = None, scope: str = "app", **attributes: str) -> bytes:
    request = ExportLogsServiceRequest()
    scoped = request.resource_logs.add().scope_logs.add()
    scoped.scope.name = scope
    item = scoped.log_records.add(event_name=event)
    if body is not None:
        item.body.CopyFrom(body)
    for key, value in attributes.items():
        attribute(item, key, value)
    return request.SerializeToString()


def record_after(policy: Policy, payload: bytes) -> Any:
    request = ExportLogsServiceRequest.FromString(policy.apply(Signal.LOGS, payload, 1).payload)
    return request.resource_logs[0].scope_logs[0].log_records[0]


@pytest.mark.parametrize("named", ["field", "attribute"])
def test_bodies_of_genai_records_keep_their_shape_and_lose_their_words(named: str) -> None:
    body = AnyValue()
    body.kvlist_value.values.add(key="role").value.string_value = "user"
    body.kvlist_value.values.add(key="content").value.string_value = "what is the capital?"
    payload = (
        record("gen_ai.user.message", body) if named == "field" else record("", body, **{"event.name": "gen_ai.user.message"})
    )
    found = {pair.key: pair.value.string_value for pair in record_after(DROP, payload).body.kvlist_value.values}
    assert found == {"role": "user", "content": ""}
    found = {p.key: p.value.string_value for p in record_after(Policy(content="truncate: 4"), payload).body.kvlist_value.values}
    assert found == {"role": "user", "content": "what" + MARK}


def test_other_records_keep_their_body() -> None:
    payload = record("", AnyValue(string_value="GET / 200, prompt gen_ai"), scope="uvicorn")
    assert DROP.apply(Signal.LOGS, payload, 1).payload is payload


# ---------------------------------------------------------------------------------------------------------------- laws


@given(st.text(max_size=60), st.integers(0, 40))
def test_a_cut_text_is_a_beginning_of_at_most_n_bytes(text: str, limit: int) -> None:
    policy = Policy(content=f"truncate: {limit}")
    payload = one_span(**{"gen_ai.input.messages": text.encode("utf-8", "replace").decode()})
    text = after(Policy(), payload)["gen_ai.input.messages"]
    found = after(policy, payload)["gen_ai.input.messages"]
    if found != text:
        assert found.endswith(MARK)
        kept = found.removesuffix(MARK)
        assert text.startswith(kept)
        assert limit - 4 < len(kept.encode()) <= limit
    else:
        assert len(text.removesuffix(MARK).encode()) <= limit
    once = policy.apply(Signal.TRACES, payload, 1).payload
    assert policy.apply(Signal.TRACES, once, 1).payload == once


@given(st.text(max_size=300), st.booleans())
def test_every_key_has_an_answer(key: str, genai: bool) -> None:
    assert holds(key, genai) in Holds


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=12), st.floats(0, 100))
def test_sampling_decides_by_trace_id_as_everywhere_else(ids: list[bytes], percentage: float) -> None:
    request = ExportTraceServiceRequest()
    for number, trace_id in enumerate(ids):
        group = request.resource_spans.add() if number % 3 == 0 else request.resource_spans[-1]
        scoped = group.scope_spans.add() if number % 2 == 0 or not group.scope_spans else group.scope_spans[-1]
        scoped.spans.add(trace_id=trace_id, name=f"{number}")
    applied = Policy(percentage=percentage).apply(Signal.TRACES, request.SerializeToString(), len(ids))
    options = Options(sample_rate=percentage / 100)
    left = ExportTraceServiceRequest.FromString(applied.payload)
    names = [s.name for g in left.resource_spans for c in g.scope_spans for s in c.spans]
    assert names == [f"{n}" for n, trace_id in enumerate(ids) if not any(trace_id) or options.samples(trace_id)]
    assert (applied.items, applied.items + applied.left_out) == (len(names), len(ids))
    assert all(g.scope_spans and all(c.spans for c in g.scope_spans) for g in left.resource_spans) or len(names) == len(ids)


def test_records_without_a_trace_are_never_sampled_away() -> None:
    payload = record("", AnyValue(string_value="hello"))
    assert Policy(percentage=0).apply(Signal.LOGS, payload, 1).payload is payload


@given(st.data())
def test_ranges_put_together_are_the_whole(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 4), max_size=5))
    request = ExportTraceServiceRequest()
    number = 0
    for size in sizes:
        scoped = request.resource_spans.add(schema_url=f"{size}").scope_spans.add(schema_url="s")
        for _ in range(size):
            scoped.spans.add(name=f"{number}")
            number += 1
    cut = data.draw(st.integers(0, number))
    parts = [take_items(Signal.TRACES, request.SerializeToString(), *ends) for ends in ((0, cut), (cut, number))]
    both = ExportTraceServiceRequest.FromString(b"".join(parts))
    found = [(g.schema_url, s.name) for g in both.resource_spans for c in g.scope_spans for s in c.spans]
    assert found == [(g.schema_url, s.name) for g in request.resource_spans for c in g.scope_spans for s in c.spans]


def test_without_anything_to_do_nothing_is_read() -> None:
    garbage = b"\xff\xff\xff"
    assert Policy().apply(Signal.TRACES, garbage, 3).payload is garbage
    assert DROP.apply(Signal.TRACES, garbage, 3).payload is garbage  # no hint of content


@pytest.mark.parametrize("policy", [Policy(percentage=50), DROP])
def test_what_cannot_be_read_does_not_go_on(policy: Policy) -> None:
    with pytest.raises(PayloadError, match="no OTLP traces") as caught:
        policy.apply(Signal.TRACES, b"\xff gen_ai.prompt", 1)
    assert "prompt" not in str(caught.value)
