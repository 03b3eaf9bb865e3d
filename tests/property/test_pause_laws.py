"""A pause packs finished traces: whenever it comes, the same rows come out, and nothing else is counted."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from otel_langfuse.counters import Counters
from otel_langfuse.model import EventView, SpanView
from otel_langfuse.pipeline import Options, Pipeline, Row
from otel_langfuse.pipeline.context import Context
from otel_langfuse.testing import FakeClock
from support import CHAT, Out, span, started

TRACES = [number.to_bytes(16, "big") for number in (1, 1, 1, 2)]
BARE = {key: value for key, value in CHAT.items() if "messages" not in key}
CONTEXTS = (None, Context(user="ada", tags=("a", "b")), Context(session="s", metadata={"plan": "pro"}, trace_name="Given"))
ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {},
    {"http.route": "/ask", "http.request.method": "POST", "app.list": ["x", "y"]},
    {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper", "gen_ai.conversation.id": "c1"},
    {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"},
    {**CHAT, "gen_ai.response.id": "r1", "user.id": "bob"},
    {**BARE, "gen_ai.response.id": "r1"},
    {**BARE, "gen_ai.workflow.name": "Answer"},
    CHAT,
)
SCOPES = ("app", "opentelemetry.instrumentation.openai_v2", "openinference.instrumentation.langchain", "openlit.otel")


@dataclass(frozen=True)
class Life:
    """A span's: below which other one it stands, what it says, and how many other things happen before it ends.

    Most end at once, so that what comes below them comes late; ``announced`` is false for one whose start nobody saw.
    """

    trace: bytes
    parent: int
    attributes: dict[str, Any]
    scope: str
    context: Context | None
    patience: int
    announced: bool
    wait: float


lives = st.builds(
    Life,
    trace=st.sampled_from(TRACES),
    parent=st.integers(-1, 9),
    attributes=st.sampled_from(ATTRIBUTES),
    scope=st.sampled_from(SCOPES),
    context=st.sampled_from(CONTEXTS),
    patience=st.sampled_from((0, 0, 0, 0, 1, 2, 5)),
    announced=st.sampled_from((True, True, True, False)),
    wait=st.sampled_from((0.0, 0.0, 0.0, 0.0, 1.0, 6.0, 15.0)),
)


def view_of(number: int, life: Life) -> SpanView:
    events = [EventView("seen", 5, {"n": number})] if number % 3 == 0 else []
    parent = life.parent if life.parent not in (-1, number) else None
    more: dict[str, Any] = {"start": 10 + number, "end": 99, "events": events}
    return span(number, parent, attributes=life.attributes, scope=life.scope, trace=life.trace, **more)


def run(lives: Sequence[Life], pauses: Container[int]) -> tuple[list[Row], dict[str, int], int]:
    out, clock, counters = Out(), FakeClock(), Counters()
    pipeline = Pipeline(out, Options(join_timeout=5.0), counters=counters, clock=clock)
    due: dict[int, list[int]] = {}
    for now, life in enumerate(lives):
        if life.announced:
            start = started(view_of(now, life), visible=bool(now % 3))
            pipeline.started(replace(start, propagated=life.context))
        due.setdefault(now + life.patience, []).append(now)
        for number in due.pop(now, ()):
            pipeline.ended(view_of(number, lives[number]))
        if life.wait:
            clock.advance(life.wait)
            pipeline.tick()
        if now in pauses:
            pipeline.pause()
    for number in (number for numbers in due.values() for number in numbers):
        pipeline.ended(view_of(number, lives[number]))
    remembered = pipeline.remembered
    pipeline.close()
    return out.rows, dict(counters.counts), remembered


def life(parent: int, attributes: dict[str, Any], scope: str = "app", **more: Any) -> Life:
    usual: dict[str, Any] = {"trace": TRACES[0], "context": None, "patience": 0, "announced": True, "wait": 0.0}
    return Life(parent=parent, attributes=attributes, scope=scope, **{**usual, **more})


OTHER = {**CHAT, "gen_ai.request.model": "o3", "gen_ai.response.model": "o3"}
# A late call below one that has ended, behind another one; one below an entry that gives the trace its name.
BEHIND = [life(-1, CHAT, "a"), life(0, OTHER, "b"), life(0, CHAT, "c")]
NAMED = [life(-1, {}), life(0, CHAT)]


@settings(max_examples=500)
@example(BEHIND, set())
@example(NAMED, set())
@given(st.lists(lives, max_size=10), st.sets(st.integers(0, 9)))
def test_when_a_pause_comes_makes_no_difference(lives: list[Life], pauses: set[int]) -> None:
    expected = run(lives, ())
    assert run(lives, pauses) == expected
    assert run(lives, range(len(lives))) == expected
