"""The trace window: how long spans wait, and what becomes of those that were written before all had come."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_langfuse.counters import Counters
from otel_langfuse.model import LogView, SpanView
from otel_langfuse.pipeline import Options, Pipeline
from otel_langfuse.pipeline.window import Window
from otel_langfuse.testing import FakeClock
from support import CHAT, TRACE, Out, chat, span

AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"}
BARE = {key: value for key, value in CHAT.items() if not key.endswith("messages")}
SENDER = "opentelemetry.instrumentation.openai_v2"
SERVER = 2


class Box:
    """A window, a pipeline and a clock."""

    def __init__(self, limit: int = 1 << 20, **options: Any) -> None:
        self.clock, self.counters, self.out = FakeClock(), Counters(), Out()
        self.left_out: list[SpanView] = []
        self.pipeline = Pipeline(
            self.out, Options(**options), counters=self.counters, clock=self.clock, on_left_out=self.left_out.append
        )
        self.window = Window(
            self.pipeline,
            window=10.0,
            settle=1.0,
            limit=limit,
            counters=self.counters,
            clock=self.clock,
            on_error=self._failed,
            on_repeated=self.left_out.append,
        )

    def _failed(self, view: SpanView, error: Exception) -> None:
        raise error

    def add(self, *views: SpanView) -> None:
        for view in views:
            self.window.add(view, 1_000)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.window.tick()


def content(number: int, text: str = "from a log", scope: str = SENDER) -> LogView:
    messages: Any = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
    return LogView(
        TRACE,
        number.to_bytes(8, "big"),
        "gen_ai.client.inference.operation.details",
        {"gen_ai.input.messages": messages},
        None,
        scope,
    )


def test_a_whole_trace_is_written_when_it_has_settled() -> None:
    box = Box()
    box.add(chat(2, 1), span(1))
    box.pass_time(0.9)
    assert box.out.parents == {}
    box.pass_time(0.1)
    assert box.out.parents == {1: None, 2: 1}
    assert "placed_early" not in box.counters.counts


def test_a_span_waits_for_its_parent_as_long_as_the_window_lasts() -> None:
    box = Box()
    box.add(chat(2, 1))
    box.pass_time(9.9)
    assert box.out.parents == {}
    box.add(span(1))
    box.pass_time(1.0)
    assert box.out.parents == {1: None, 2: 1}


def test_a_parent_of_the_same_process_that_is_still_open_is_promised() -> None:
    box = Box()
    box.add(chat(3, 2), chat(4, 2))
    box.pass_time(10.0)
    assert box.out.parents == {3: 2, 4: 2}
    assert box.counters.counts["placed_early"] == 2
    assert box.counters.counts["expected_parents"] == 1
    box.add(span(2, 1, attributes=AGENT), span(1, name="GET /ask"))
    box.pass_time(1.0)
    assert box.out.parents == {1: None, 2: 1, 3: 2, 4: 2}
    assert box.out.row(1).is_root


def test_a_promised_parent_is_kept_whatever_it_is() -> None:
    box = Box()
    box.add(chat(3, 2))
    box.pass_time(10.0)
    box.add(span(2, 1, name="SELECT"), span(1))
    box.pass_time(1.0)
    assert box.out.parents == {1: None, 2: 1, 3: 2}


def test_a_promise_on_top_of_a_promise() -> None:
    """A long run: each level comes a window after the one below it."""
    box = Box()
    box.add(chat(4, 3))
    box.pass_time(10.0)
    box.add(span(3, 2, attributes=AGENT))
    box.pass_time(10.0)
    box.add(span(2, 1, attributes=AGENT))
    box.pass_time(10.0)
    box.add(span(1, name="job"))
    box.pass_time(1.0)
    assert box.out.parents == {1: None, 2: 1, 3: 2, 4: 3}
    assert [row.is_root for row in box.out.rows].count(True) == 1
    assert "hello" in box.out[1]["langfuse.observation.input"]


def test_usage_below_a_promised_parent_is_not_counted_again_above_it() -> None:
    usage = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}
    box = Box()
    box.add(chat(3, 2))
    box.pass_time(10.0)
    box.add(span(2, 1, attributes=AGENT), span(1, attributes={**AGENT, **usage}))
    box.pass_time(1.0)
    assert "langfuse.observation.usage_details" not in box.out[1]


def test_a_remote_parent_that_does_not_come_counts_as_absent() -> None:
    box = Box()
    box.add(span(2, 1, remote=True, name="POST /chat"), chat(3, 2))
    box.pass_time(10.0)
    assert box.out.parents == {2: None, 3: 2}


def test_a_server_span_whose_flags_say_nothing_has_a_remote_parent() -> None:
    box = Box()
    box.add(span(2, 1, kind=SERVER), chat(3, 2))
    box.pass_time(10.0)
    assert box.out.parents == {2: None, 3: 2}


def test_a_promised_parent_that_never_comes_gets_no_row_and_is_counted() -> None:
    """Its start is not known: a row with another one would stand beside the real one for ever."""
    box = Box(max_open=60.0)
    box.add(chat(3, 2))
    box.pass_time(10.0)
    box.pass_time(61.0)
    assert box.out.parents == {3: 2}
    assert box.counters.counts["parents_never_came"] == 1


def test_a_promise_outlives_the_memory_of_its_trace() -> None:
    box = Box(max_open=60.0)
    box.add(chat(3, 2))
    box.pass_time(10.0)
    box.pass_time(61.0)
    box.add(span(2, None, name="GET /ask"))
    box.pass_time(1.0)
    assert box.out.parents == {2: None, 3: 2}


def test_a_late_span_finds_the_row_of_a_trace_that_is_forgotten() -> None:
    box = Box(max_ids=100)
    box.add(span(1, name="GET /ask"), span(2, 1, name="SELECT"), chat(3, 2))
    box.pass_time(1.0)
    box.pass_time(31.0)
    assert box.pipeline.remembered == 0
    box.add(chat(4, 2), chat(5, 3, attributes={"gen_ai.request.model": "other"}))
    box.pass_time(1.0)
    assert box.out.parents == {1: None, 3: 1, 4: 1, 5: 3}
    assert [row.is_root for row in box.out.rows].count(True) == 1
    assert "expected_parents" not in box.counters.counts


def test_a_span_that_comes_again_much_later_is_not_written_again() -> None:
    box = Box(max_ids=100)
    box.add(chat(1))
    box.pass_time(1.0)
    box.pass_time(31.0)
    box.add(chat(1))
    box.pass_time(1.0)
    assert box.out.parents == {1: None}


def test_what_stands_below_a_span_that_is_elsewhere_moves_up() -> None:
    """Routing gave span 2 to another project: here the tree is contracted past it, and nobody waits for it."""
    box = Box()
    box.window.elsewhere(span(2, 1))
    box.add(chat(3, 2), span(1, attributes=AGENT))
    box.pass_time(1.0)
    assert box.out.parents == {1: None, 3: 1}


def test_an_entry_that_is_elsewhere_counts_as_absent() -> None:
    box = Box()
    box.add(chat(3, 1))
    box.window.elsewhere(span(1, name="GET /ask"))
    box.pass_time(1.0)
    assert box.out.parents == {3: None}


def test_an_applications_own_log_line_is_no_content() -> None:
    box = Box()
    box.add(span(1, attributes=BARE, scope=SENDER))
    box.window.content(LogView(TRACE, (1).to_bytes(8, "big"), "", {}, "HTTP Request: POST 200", "httpx"))
    box.pass_time(5.0)
    assert box.out.parents == {}


def test_closing_counts_every_unseen_parent_as_absent() -> None:
    box = Box()
    box.add(chat(3, 2))
    box.window.close()
    assert box.out.parents == {3: None}


def test_flush_ends_waits_and_promises() -> None:
    box = Box()
    box.add(chat(3, 2))
    box.window.flush()
    assert box.out.parents == {3: 2}


def test_a_model_call_without_content_waits_for_its_log_record() -> None:
    box = Box()
    box.add(span(1, attributes=BARE, scope=SENDER))
    box.pass_time(5.0)
    assert box.out.parents == {}
    box.window.content(content(1))
    box.pass_time(1.0)
    assert "from a log" in box.out[1]["langfuse.observation.input"]


def test_a_scope_whose_content_did_not_come_is_not_waited_for_again() -> None:
    box = Box()
    box.add(span(1, attributes=BARE, scope=SENDER))
    box.pass_time(10.0)
    assert box.counters.counts["early_without_content"] == 1
    box.add(span(2, attributes=BARE, scope=SENDER, trace=b"x" * 16))
    box.pass_time(1.0)
    assert box.out.parents == {1: None, 2: None}


def test_a_scope_that_sends_content_is_learned() -> None:
    box = Box()
    box.window.content(content(7, scope="someone.new"))
    box.add(span(1, attributes=BARE, scope="someone.new"))
    box.pass_time(5.0)
    assert box.out.parents == {}


def test_a_span_with_its_content_does_not_wait() -> None:
    box = Box()
    box.add(chat(1, scope=SENDER))
    box.pass_time(1.0)
    assert box.out.parents == {1: None}


def test_content_that_comes_after_its_span_was_written_is_counted() -> None:
    box = Box()
    box.add(chat(1))
    box.pass_time(1.0)
    box.window.content(content(1))
    assert box.counters.counts["late_content"] == 1


def test_pressure_writes_the_longest_waiting_first() -> None:
    box = Box(limit=10_000)
    for number in range(1, 11):
        box.add(chat(number, trace=bytes([number]) * 16))
    assert box.out.parents == {}
    box.add(chat(11, trace=b"z" * 16))
    assert list(box.out.parents) == [1, 2, 3, 4]
    assert box.counters.counts["window_full"] == 4
    assert box.window.bytes == 7_000


def test_a_span_that_comes_twice_is_written_once() -> None:
    box = Box()
    box.add(chat(1), chat(1))
    box.pass_time(1.0)
    box.add(chat(1))
    box.pass_time(1.0)
    assert box.out.parents == {1: None}
    assert box.counters.counts["repeated_span"] == 2
    assert len(box.left_out) == 2


def test_one_trace_does_not_hold_up_another() -> None:
    box = Box()
    box.add(chat(2, 1), chat(3, trace=b"y" * 16))
    box.pass_time(1.0)
    assert box.out.parents == {3: None}


def test_a_trace_that_goes_on_does_not_keep_its_first_spans_longer_than_the_window() -> None:
    box = Box()
    box.add(chat(2, 1))
    for number in range(3, 25):
        box.pass_time(0.5)
        box.add(chat(number, 1))
    assert 2 in box.out.parents


def test_parents_in_a_circle_are_written_too() -> None:
    box = Box()
    box.add(chat(1, 2), chat(2, 1))
    box.pass_time(10.0)
    box.window.close()
    assert {*box.out.parents} == {1, 2}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.integers(1, 14), seed=st.integers(0, 10_000))
def test_every_span_comes_out_once_and_the_tree_holds(data: st.DataObject, size: int, seed: int) -> None:
    """Any tree, in any order of arrival, with any time between: no span is lost, and no parent is missing."""
    chance = random.Random(seed)
    parents = {1: None} | {number: data.draw(st.integers(1, number - 1)) for number in range(2, size + 1)}
    views = [
        chat(number, parent, start=number, end=1_000 - number) if chance.random() < 0.5 else span(number, parent, start=number)
        for number, parent in parents.items()
    ]
    chance.shuffle(views)
    box = Box()
    for view in views:
        box.add(view)
        box.pass_time(data.draw(st.sampled_from([0.0, 0.3, 1.0, 10.0, 11.0])))
    box.pass_time(10.0)
    box.window.close()
    written = box.out.parents
    assert len(box.out.rows) == len(written), "no row twice"
    assert sorted([*written, *(int.from_bytes(view.span_id, "big") for view in box.left_out)]) == sorted(parents)
    assert all(parent in written for parent in written.values() if parent is not None)
    assert list(written.values()).count(None) == (1 if written else 0)
