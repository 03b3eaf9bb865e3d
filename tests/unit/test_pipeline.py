"""The pipeline's own decisions: waits and their bounds, doubles, joins, overrides, lifted input and output."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from otel_langfuse.counters import Counters
from otel_langfuse.model import LogView, SpanView
from otel_langfuse.pipeline import Options, Pipeline
from otel_langfuse.testing import FakeClock
from support import CHAT, TRACE, Out, chat, convert_all, span, started

ANSWERED = {"gen_ai.response.id": "r1"}
BARE = {key: value for key, value in CHAT.items() if "messages" not in key}


def pipeline(**options: Any) -> tuple[Pipeline, Out, FakeClock, Counters]:
    out, clock, counters = Out(), FakeClock(), Counters()
    return Pipeline(out, Options(**options), counters=counters, clock=clock), out, clock, counters


def test_an_inner_call_waits_for_its_open_outer_one_but_not_for_ever() -> None:
    pipe, out, clock, _ = pipeline(join_timeout=10.0)
    outer, inner = chat(1, scope="framework"), chat(2, 1, scope="client")
    pipe.started(started(outer))
    pipe.started(started(inner))
    pipe.ended(inner)
    pipe.tick()
    assert not out.rows, "its outer span may be the same call"
    clock.advance(10.1)
    pipe.tick()
    assert out[2]["langfuse.observation.type"] == "generation"
    pipe.ended(outer)
    pipe.close()
    assert out[1]["langfuse.observation.type"] == "span"
    assert out[1]["langfuse.observation.metadata.duplicate_of"] == "0000000000000002"


def test_a_flush_ends_all_waits() -> None:
    pipe, out, _, _ = pipeline()
    outer, inner = chat(1, scope="framework"), chat(2, 1, scope="client")
    pipe.started(started(outer))
    pipe.started(started(inner))
    pipe.ended(inner)
    pipe.flush()
    assert [row.view.span_id for row in out.rows] == [inner.span_id]


def test_equal_scopes_are_two_calls() -> None:
    out = convert_all([chat(1, scope="lib"), chat(2, 1, scope="lib")])
    assert [out[n]["langfuse.observation.type"] for n in (1, 2)] == ["generation", "generation"]


def test_different_models_are_two_calls() -> None:
    other = {"gen_ai.request.model": "o3", "gen_ai.response.model": "o3"}
    out = convert_all([chat(1, scope="framework"), chat(2, 1, scope="client", attributes=other)])
    assert [out[n]["langfuse.observation.type"] for n in (1, 2)] == ["generation", "generation"]


def test_different_response_ids_are_two_calls() -> None:
    views = [
        chat(1, scope="framework", attributes={"gen_ai.response.id": "a"}),
        chat(2, 1, scope="client", attributes={"gen_ai.response.id": "b"}),
    ]
    assert [convert_all(views)[n]["langfuse.observation.type"] for n in (1, 2)] == ["generation", "generation"]


def test_equal_response_ids_in_two_traces_are_one_call() -> None:
    """An instrumentation that does not make its span current beside a client that traces itself."""
    outer = chat(1, scope="opentelemetry.instrumentation.anthropic", attributes=ANSWERED, start=1, end=9)
    bare = {**BARE, **ANSWERED}
    native = span(2, trace=b"o" * 16, scope="com.anthropic.sdk.python", attributes=bare, start=2, end=8)
    out = convert_all([outer, native])
    assert out[1]["langfuse.observation.type"] == "generation"
    assert out[2]["langfuse.observation.type"] == "span"
    assert out[2]["langfuse.observation.metadata.duplicate_of"] == "0000000000000001"


def test_the_richer_of_two_survives_and_takes_over_what_it_lacks() -> None:
    timed = {**BARE, **ANSWERED, "gen_ai.response.time_to_first_chunk": 0.5}
    outer = chat(1, scope="framework", attributes=ANSWERED, start=1000, end=5000)
    inner = span(2, 1, scope="client", attributes=timed, start=1100, end=4000)
    written = convert_all([outer, inner])[1]
    assert written["langfuse.observation.completion_start_time"] == "1970-01-01T00:00:01.600Z"
    assert "langfuse.observation.completion_start_time" not in convert_all([outer, inner])[2]


def test_content_records_are_joined_and_hook_content_wins() -> None:
    def record(origin: str, text: str) -> LogView:
        messages = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
        name = "gen_ai.client.inference.operation.details"
        return LogView(TRACE, (1).to_bytes(8, "big"), name, {"gen_ai.input.messages": messages}, None, origin=origin)  # type: ignore[dict-item]

    bare = span(1, attributes=BARE)
    assert "from the log" in convert_all([bare], [record("log", "from the log")])[1]["langfuse.observation.input"]
    assert "hello" in convert_all([chat(1)], [record("log", "from the log")])[1]["langfuse.observation.input"]
    both = convert_all([chat(1)], [record("log", "from the log"), record("hook", "from the hook")])
    assert "from the hook" in both[1]["langfuse.observation.input"]


def test_a_record_without_ids_is_joined_by_response_id() -> None:
    messages = [{"role": "user", "parts": [{"type": "text", "content": "outside"}]}]
    attributes: dict[str, Any] = {"gen_ai.input.messages": messages, "gen_ai.response.id": "r1"}
    record = LogView(b"", b"", "gen_ai.client.inference.operation.details", attributes, None)
    out = convert_all([span(1, attributes={**BARE, **ANSWERED})], [record])
    assert "outside" in out[1]["langfuse.observation.input"]


def test_held_content_is_bounded_and_counted() -> None:
    from otel_langfuse.pipeline.join import Joiner

    counters = Counters()
    joiner = Joiner(counters, patience=60.0, limit=5_000)
    for number in range(10):
        joiner.add(LogView(TRACE, number.to_bytes(8, "big"), "gen_ai.choice", {}, "x" * 1_000), 0.0)
    assert counters.counts["content_unjoined"] == 7


def test_globs_override_what_is_genai() -> None:
    views = [span(1), span(2, 1, name="rerank documents"), chat(3, 2), chat(4, 1, name="noisy chat")]
    out = convert_all(views, keep=("rerank *",), drop=("noisy*",))
    assert out.parents == {1: None, 2: 1, 3: 2}


def test_a_dropped_span_that_others_stand_below_is_kept_as_it_is() -> None:
    """Drop never breaks the tree: here the entry span itself is asked to go."""
    out = convert_all([chat(1, name="entry"), chat(2, 1)], drop=("entry",))
    assert out.parents == {1: None, 2: 1}


def test_should_export_has_the_last_word() -> None:
    out = Out()
    pipe = Pipeline(out, Options(), should_export=lambda view: view.name == "mine")
    pipe.started(started(span(1)))
    for view in (chat(2, 1), span(3, 1, name="mine")):
        pipe.started(started(view))
        pipe.ended(view)
    pipe.ended(span(1))
    assert out.parents == {3: 1, 1: None}


def test_attribute_rules_come_after_the_dialects() -> None:
    attributes = {"persona": "ada", "user.id": "u", "tenant": "acme", "labels": "a, b"}
    rules = {"persona": "user.id", "tenant": "metadata.tenant", "labels": "tags"}
    written = convert_all([chat(1, attributes=attributes)], attribute_map=rules)[1]
    assert written["langfuse.user.id"] == "ada"
    assert written["langfuse.trace.metadata.tenant"] == "acme"
    assert written["langfuse.trace.tags"] == ["a", "b"]


def test_the_entry_shows_the_first_question_and_the_last_answer() -> None:
    def said(number: int, ask: str, answer: str, **times: int) -> Any:
        return chat(
            number,
            1,
            attributes={
                "gen_ai.input.messages": json.dumps([{"role": "system", "content": "S"}, {"role": "user", "content": ask}]),
                "gen_ai.output.messages": json.dumps([{"role": "assistant", "content": answer}]),
                "gen_ai.response.id": str(number),
            },
            **times,
        )

    entry = span(1, start=0, end=100)
    embedding = chat(4, 1, start=1, end=99, attributes={"gen_ai.operation.name": "embeddings"})
    out = convert_all(
        [entry, said(2, "first", "early", start=2, end=50), said(3, "second", "late", start=10, end=60), embedding]
    )
    assert json.loads(out[1]["langfuse.observation.input"]) == {"role": "user", "content": "first"}
    assert json.loads(out[1]["langfuse.observation.output"]) == {"role": "assistant", "content": "late"}


def test_an_own_value_of_the_entry_wins_per_side() -> None:
    entry = span(1, attributes={"langfuse.observation.input": "mine", "langfuse.observation.type": "span"})
    out = convert_all([entry, chat(2, 1)])
    assert out[1]["langfuse.observation.input"] == "mine"
    assert "hi there" in out[1]["langfuse.observation.output"]


def test_lifted_content_is_cut_at_64_kib() -> None:
    long = json.dumps([{"role": "user", "content": "ü" * 100_000}])
    written = convert_all([span(1), chat(2, 1, attributes={"gen_ai.input.messages": long})])
    lifted = json.loads(written[1]["langfuse.observation.input"])
    assert lifted["content"].endswith("[cut: 100000 characters]")
    assert len(lifted["content"]) < 66_000
    assert len(json.loads(written[2]["langfuse.observation.input"])[0]["content"]) == 100_000


@pytest.mark.parametrize(
    ("name", "attributes", "shown"),
    [
        ("POST /ask", {}, "/ask"),
        ("POST", {"http.route": "/ask/{id}"}, "/ask/{id}"),
        ("GET", {"http.target": "/ask?x=1"}, "/ask"),
        ("GET", {}, "shop"),
        ("Getting things done", {}, "Getting things done"),
    ],
)
def test_an_http_entry_is_named_by_its_route(name: str, attributes: dict[str, Any], shown: str) -> None:
    entry = span(1, name=name, attributes=attributes, resource={"service.name": "shop"})
    out = convert_all([entry, chat(2, 1)])
    assert out.row(1).name == out[2]["langfuse.trace.name"] == shown


def test_a_workflow_names_the_trace() -> None:
    out = convert_all([span(1, name="POST /ask"), chat(2, 1, attributes={"gen_ai.workflow.name": "Answer"})])
    assert out[2]["langfuse.trace.name"] == out.row(1).name == "Answer"


def test_traces_are_forgotten_when_idle_and_late_spans_make_a_tree_of_their_own() -> None:
    pipe, out, clock, counters = pipeline(linger=30.0)
    pipe.started(started(span(1)))
    pipe.ended(span(1))
    clock.advance(31)
    pipe.tick()
    assert counters.counts["left_out"] == 1
    pipe.started(started(chat(2, 1)))
    pipe.ended(chat(2, 1))
    assert out.parents == {2: None}


def test_a_placeholder_is_replaced_when_the_span_ends_at_last() -> None:
    pipe, out, clock, counters = pipeline(max_open=3600.0)
    entry = span(1, name="daemon")
    pipe.started(started(entry))
    pipe.started(started(chat(2, 1)))
    pipe.ended(chat(2, 1))
    clock.advance(3601)
    pipe.tick()
    assert counters.counts["placeholders"] == 1
    pipe.ended(entry)
    first, second = [row for row in out.rows if row.view.span_id == entry.span_id]
    assert first.view.start_ns == second.view.start_ns
    assert first.note == {"incomplete": "true"}
    assert not second.note


def test_a_span_that_ends_twice_goes_once() -> None:
    pipe, out, _, counters = pipeline()
    pipe.ended(chat(1))
    pipe.ended(chat(1))
    assert len(out.rows) == 1
    assert counters.counts["repeated_span"] == 1


def test_memory_is_bounded_in_spans() -> None:
    pipe, _, clock, _ = pipeline(max_nodes=100)
    for number in range(1, 1_000):
        pipe.started(started(span(number, trace=number.to_bytes(16, "big"))))
        clock.advance(0.001)
        pipe.tick()
    assert pipe.remembered <= 100


def test_packed_traces_are_bounded_in_spans_and_time() -> None:
    pipe, _, clock, counters = pipeline(max_nodes=100, linger=30.0)
    for number in range(1, 1_000):
        pipe.ended(span(number, trace=number.to_bytes(16, "big")))
        pipe.pause()
        pipe.tick()
    assert pipe.remembered == 100
    assert counters.counts["left_out"] == 899
    clock.advance(31)
    pipe.tick()
    assert pipe.remembered == 0
    assert counters.counts["left_out"] == 999


def test_finished_traces_are_not_what_the_garbage_collector_looks_at() -> None:
    pipe, out, _, _ = pipeline()

    def tracked_after(first: int, last: int) -> int:
        for number in range(first, last):
            trace = number.to_bytes(16, "big")
            answered = {"gen_ai.response.id": f"r{number}", "session.id": f"s{number}"}
            pipe.started(started(span(1, trace=trace)))
            pipe.ended(chat(2, 1, trace=trace, attributes=answered))
            pipe.ended(span(1, trace=trace))
            pipe.pause()
        out.rows.clear()
        gc.collect()
        return len(gc.get_objects())

    before = tracked_after(1, 500)
    assert tracked_after(500, 1_000) - before < 50
    assert pipe.remembered == 2 * 999


class Named(str):
    """A text as an application may have it."""


@pytest.mark.parametrize("number", [1, 70])
def test_what_cannot_be_packed_stays_as_it_is(number: int) -> None:
    """A trace of many spans, or one with a text of the application's own type."""
    pipe, out, _, _ = pipeline()
    for child in range(number):
        pipe.ended(span(2 + child, 1, scope=Named("app")))
    pipe.ended(span(1, scope="app" if number > 1 else Named("app")))
    pipe.pause()
    pipe.ended(chat(100, 1))
    assert out.parents == {1: None, 100: 1}


@pytest.mark.parametrize(
    "attributes", [{"user.id": Named("ada")}, {"gen_ai.request.model": Named("m")}, {"langfuse.trace.tags": [Named("t")]}]
)
def test_a_text_of_another_type_is_shown_to_late_spans_as_it_is(attributes: dict[str, Any]) -> None:
    """Such as numpy's, which a packed trace would give back as bytes."""
    rows = []
    for pauses in (False, True):
        pipe, out, _, _ = pipeline()
        pipe.ended(chat(1, attributes=attributes))
        if pauses:
            pipe.pause()
        pipe.ended(chat(2, 1, scope="other.lib"))
        rows.append(out.rows)
    assert rows[0] == rows[1]


def test_what_is_left_out_is_counted_although_another_trace_fails() -> None:
    pipe, _, clock, counters = pipeline(linger=30.0, max_open=30.0)
    broken = span(1, trace=bytes(15) + b"b")
    pipe.started(started(broken))
    pipe.ended(chat(2, 1, trace=broken.trace_id))
    broken.attributes, broken.facts, broken.shape = None, None, None  # type: ignore[assignment]  # not to be read again
    pipe.ended(span(3))
    pipe.pause()
    clock.advance(31)
    with pytest.raises(TypeError):
        pipe.tick()
    assert counters.counts["left_out"] == 1


def test_a_prompt_version_that_is_a_number_links_the_prompt() -> None:
    written = convert_all([chat(1, attributes={"gen_ai.prompt.name": "p", "gen_ai.prompt.version": 3})])[1]
    assert written["langfuse.observation.prompt.version"] == "3"


def test_a_parent_that_turns_out_to_be_left_out_is_named_by_nobody() -> None:
    """It looked like a GenAI span while it was open; in the end the application did not want it."""
    pipe, out, _, _ = pipeline()
    pipe = Pipeline(out, Options(), should_export=lambda view: False if view.attributes.get("skip") else None)
    entry, parent = span(1), chat(2, 1, scope="framework")
    child = chat(3, 2, scope="client", attributes={"gen_ai.response.id": "c"})
    for view in (entry, parent, child):
        pipe.started(started(view))
    pipe.ended(child)
    pipe.ended(chat(2, 1, scope="framework", attributes={"skip": True, "gen_ai.response.id": "p"}))
    pipe.flush()
    pipe.ended(entry)
    assert out.parents == {3: 1, 1: None}


def test_equal_span_ids_in_two_traces_are_two_spans() -> None:
    pipe, out, _, _ = pipeline()
    for trace in (b"a" * 16, b"b" * 16):
        pipe.started(started(chat(1, scope="framework", trace=trace)))
        pipe.started(started(chat(2, 1, scope="client", trace=trace)))
    for trace in (b"a" * 16, b"b" * 16):
        pipe.ended(chat(2, 1, scope="client", trace=trace))
    pipe.close()
    assert len([row for row in out.rows if row.view.span_id == (2).to_bytes(8, "big")]) == 2


def test_a_third_description_of_a_call_is_no_new_call() -> None:
    views = [span(1), *(chat(number, 1, scope=f"lib {number}", attributes=ANSWERED) for number in (2, 3, 4))]
    out = convert_all(views)
    assert sorted(out[number]["langfuse.observation.type"] for number in (2, 3, 4)) == ["generation", "span", "span"]


def test_an_agent_that_ends_while_its_call_waits_does_not_count_it_again() -> None:
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}
    pipe, out, _, _ = pipeline()
    views = [chat(1, scope="framework"), span(2, 1, attributes=agent, scope="agents"), chat(3, 2, scope="client")]
    for view in views:
        pipe.started(started(view))
    pipe.ended(views[2])
    pipe.ended(views[1])
    pipe.close()
    assert "langfuse.observation.usage_details" not in out[2]


def test_what_an_entry_takes_from_below_is_bounded() -> None:
    children = [
        chat(n, 1, attributes={"gen_ai.response.id": str(n), "langfuse.trace.tags": [f"tag {n}"]}) for n in range(2, 300)
    ]
    assert len(convert_all([span(1, end=9_000), *children])[1]["langfuse.trace.tags"]) <= 100


def test_non_finite_parameters_go() -> None:
    written = convert_all([chat(1, attributes={"gen_ai.request.temperature": float("nan"), "gen_ai.request.top_p": 0.5})])[1]
    assert json.loads(written["langfuse.observation.model.parameters"]) == {"top_p": 0.5}


def test_a_replay_does_not_hold_what_it_has_read() -> None:
    views = [chat(1), *(chat(number, 1) for number in range(2, 200))]
    assert len(convert_all(views).rows) == 199
    assert not any(view.facts for view in views)


def test_a_filter_that_ends_everything_does_not_move_the_span_in_hand() -> None:
    out = Out()

    def ends_everything(view: SpanView) -> None:
        if view.span_id == found[1].span_id and not closed:
            closed.append(True)
            pipe.close()

    closed: list[bool] = []
    pipe = Pipeline(out, should_export=ends_everything)
    found = [chat(1, 9), chat(2, 9)]  # two below a parent that is never seen: the first is the trace's root
    for view in found:
        pipe.ended(view)
    assert closed
    assert [row.is_root for row in out.rows] == [True, False]
    assert out.rows[1].parent_id == found[0].span_id
