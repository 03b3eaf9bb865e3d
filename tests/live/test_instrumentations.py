"""The real OpenAI SDK under real instrumentations, set up by environment variables only: both copies, every mode."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from live.conftest import RUNS
from live.launching import Run
from live.scenarios import MODEL, SYSTEM, USER

pytestmark = pytest.mark.live

CALLS = {
    "plain": 1,
    "coroutine": 2,
    "streaming": 1,
    "streaming_coroutine": 1,
    "tools": 2,
    "structured": 1,
    "failure": 1,
    "responses": 1,
    "embeddings": 1,
}
# This version instruments neither the Responses API nor ``parse``.
BLIND = {"openai_v2": {"structured", "responses"}}
# Prompt and answer of every kind, as they would stand in a request of either copy.
SYSTEM_TEXT, USER_TEXT, ANSWER_TEXT = b"SYSTEM-INSTRUCTION-TEXT", b"USER-PROMPT-TEXT", b"stub model's answer"
CALL_TEXT, RESULT_TEXT, TOOL_TEXT = b"get_weather", b"TOOL-RESULT-TEXT", b"TOOL-DESCRIPTION-TEXT"
TEXTS = (SYSTEM_TEXT, USER_TEXT, ANSWER_TEXT, CALL_TEXT, RESULT_TEXT, TOOL_TEXT)
# Langfuse's copy has the content / Tempo's copy has it.
RICH = [name for name in RUNS if name not in ("genai no content", "genai content off in Langfuse")]
LEAN = [name for name in RUNS if name not in ("traceloop", "genai span only", "genai span and event")]
LEAN.remove("genai content off in Langfuse")


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, run_of: Callable[[str], Run]) -> Run:
    return run_of(request.param)


@pytest.fixture
def blind(request: pytest.FixtureRequest) -> set[str]:
    return BLIND.get(request.node.callspec.params["run"], set())


def chat(text: str | None) -> list[dict[str, Any]]:
    """An input as messages, in either of its shapes."""
    parsed = json.loads(text or "[]")
    found: list[dict[str, Any]] = parsed["messages"] if isinstance(parsed, dict) else parsed
    return found


def test_the_application_ends_well_and_at_once(run: Run) -> None:
    assert run.code == 0
    assert run.exit_seconds < 5
    assert run.warnings == []


def test_every_call_is_one_generation_with_its_model(run: Run, blind: set[str]) -> None:
    for scenario, calls in CALLS.items():
        found = run.generations(scenario)
        assert len(found) == (0 if scenario in blind else calls), scenario
        for one in found:
            if scenario == "failure":
                assert one.model == "no-such-model"
            elif scenario == "embeddings":
                assert (one.type, one.model) == ("embedding", "text-embedding-3-small")
            else:
                assert (one.type, one.model) == ("generation", MODEL + "-2025-08-07"), scenario


def test_tokens_equal_the_bill(run: Run, blind: set[str]) -> None:
    for scenario, told in run.told.items():
        if scenario not in blind:
            billed = Counter(call["tokens"] for call in told["calls"])
            assert Counter(one.total for one in run.generations(scenario) if one.usage) == billed, scenario
    if not blind:
        assert sum(one.total for one in run.observations) == run.tokens
    assert all(one.total == one.tokens("input") + one.tokens("output") for one in run.observations)


def test_both_copies_have_the_same_ids_and_nothing_twice(run: Run) -> None:
    in_tempo = Counter((row.trace_id, row.span_id) for row in run.tempo)
    in_langfuse = Counter((row.trace_id, row.span_id) for row in run.langfuse)
    assert set(in_langfuse.values()) == set(in_tempo.values()) == {1}
    assert set(in_langfuse) < set(in_tempo)
    for scenario, told in run.told.items():
        in_scenario = [row for row in run.tempo if row.trace_id == told["trace_id"]]
        assert len(in_scenario) > 2, f"Tempo's copy of {scenario} has more than the entry and the noise below it"


def test_trees_are_whole_and_without_noise(run: Run, blind: set[str]) -> None:
    for scenario in run.told.keys() - blind:
        entry, *below = run.of(scenario)
        assert entry.row.name == f"scenario {scenario}"
        assert entry.row.parent_id == ""
        assert {one.row.parent_id for one in below} == {entry.row.span_id}
        assert [one.type for one in below] == [one.type for one in run.generations(scenario)]
    noise = {row.name for row in run.tempo} - {row.name for row in run.langfuse}
    assert {"application noise", "GET", "POST"} <= noise, "HTTP spans are there, in Tempo"


def test_user_and_session_are_on_every_row(run: Run, blind: set[str]) -> None:
    for scenario in run.told.keys() - blind:
        assert {(one.user, one.session) for one in run.of(scenario)} == {("ada", f"session-{scenario}")}


def test_a_failed_call_is_an_error_that_costs_nothing(run: Run) -> None:
    (failed,) = run.generations("failure")
    assert failed.level == "ERROR"
    assert failed.cost == 0
    assert not failed.usage
    assert "no-such-model" in failed.row.text("langfuse.observation.status_message")
    assert {one.level for one in run.observations if one is not failed and one.type != "span"} == {"DEFAULT"}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "openai_v2"])  # which does not tell
def test_streams_have_the_time_of_their_first_token(name: str, run_of: Callable[[str], Run]) -> None:
    for scenario in ("streaming", "streaming_coroutine"):
        (streamed,) = run_of(name).generations(scenario)
        assert streamed.first_token_ms is not None
        length = (streamed.row.end_ns - streamed.row.start_ns) / 1_000_000
        assert 15 < streamed.first_token_ms <= length, "the stub waits 20 ms"


def test_the_link_leads_from_tempo_to_langfuse(run: Run, blind: set[str]) -> None:
    for scenario in run.told.keys() - blind:
        trace_id = run.told[scenario]["trace_id"]
        links = {row.name: row.text("langfuse.trace.url") for row in run.tempo if row.trace_id == trace_id}
        assert links[f"scenario {scenario}"].endswith(f"/trace/{trace_id}")


@pytest.mark.parametrize("name", RICH)
def test_langfuse_has_the_messages(name: str, run_of: Callable[[str], Run]) -> None:
    run = run_of(name)
    asked = {
        "plain": ["plain"],
        "coroutine": ["coroutine 0", "coroutine 1"],
        "streaming": ["streaming"],
        "streaming_coroutine": ["streaming coroutine"],
        "structured": ["structured Oslo"],
        "responses": ["responses"],
    }
    for scenario, texts in asked.items():
        if scenario in BLIND.get(name, ()):
            continue
        found = run.generations(scenario)
        inputs = sorted(one.row.text("langfuse.observation.input") for one in found)
        assert [chat(text) for text in inputs] == [
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{USER} {text}"}] for text in texts
        ]
        for one in found:
            (said,) = [chat(one.row.text("langfuse.observation.input"))[-1]["content"]]
            answer = json.loads(one.row.text("langfuse.observation.output"))
            assert answer["role"] == "assistant"
            if scenario == "structured":
                assert json.loads(answer["content"]) == {"city": "Oslo", "inhabitants": 3}
            else:
                assert answer["content"] == f"This is the stub model's answer to: {said}"
        entry = run.of(scenario)[0].row
        assert json.loads(entry.text("langfuse.observation.input"))["content"].startswith(USER)
        assert json.loads(entry.text("langfuse.observation.output"))["role"] == "assistant"


@pytest.mark.parametrize("name", RICH)
def test_langfuse_has_the_tools(name: str, run_of: Callable[[str], Run]) -> None:
    first, second = [one.row for one in run_of(name).generations("tools")]
    called = json.loads(first.text("langfuse.observation.output"))["tool_calls"]
    assert [call["function"]["name"] for call in called] == ["get_weather"] * 2
    assert [json.loads(call["function"]["arguments"]) for call in called] == [{"city": "Paris"}, {"city": "Rome"}]
    said = chat(second.text("langfuse.observation.input"))
    assert [message["role"] for message in said] == ["system", "user", "assistant", "tool", "tool"]
    assert [message["tool_call_id"] for message in said[3:]] == [call["id"] for call in called]
    assert [message["content"].split()[1] for message in said[3:]] == ["Paris", "Rome"]
    if name != "openai_v2":  # whose events have no tool definitions
        for row in (first, second):
            (tool,) = json.loads(row.text("langfuse.observation.input"))["tools"]
            assert tool["function"]["name"] == "get_weather"
            assert tool["function"]["parameters"]["required"] == ["city"]


@pytest.mark.parametrize("name", LEAN)
def test_tempo_has_no_content_at_all(name: str, run_of: Callable[[str], Run]) -> None:
    run = run_of(name)
    assert {row.span_id for row in run.langfuse} <= {row.span_id for row in run.tempo}, "the copy itself is there"
    assert [text for text in TEXTS if text in run.tempo_bytes] == []


@pytest.mark.parametrize("name", RICH)
def test_langfuse_has_content_of_every_kind(name: str, run_of: Callable[[str], Run]) -> None:
    wanted = set(TEXTS) - ({TOOL_TEXT} if name == "openai_v2" else set())
    found = run_of(name).langfuse_bytes
    assert {text for text in TEXTS if text in found} >= wanted


@pytest.mark.parametrize("name", sorted(set(RUNS) - set(RICH)))
def test_langfuse_has_no_content_where_it_is_forbidden(name: str, run_of: Callable[[str], Run]) -> None:
    run = run_of(name)
    assert len(run.langfuse) > 15
    assert [text for text in TEXTS if text in run.langfuse_bytes] == []


@pytest.mark.parametrize("name", sorted(set(RUNS) - set(LEAN)))
def test_content_that_is_written_on_the_span_is_in_tempo_too(name: str, run_of: Callable[[str], Run]) -> None:
    """What the project cannot change, and says so; were it otherwise, the tests above would prove nothing."""
    found = run_of(name).tempo_bytes
    assert [text for text in TEXTS if text not in found] == []


@pytest.mark.parametrize("name", RICH)
def test_content_is_not_repeated_in_metadata(name: str, run_of: Callable[[str], Run]) -> None:
    for row in run_of(name).langfuse:
        for key, value in row.attributes.items():
            if ".metadata." in key:
                assert not any(text.decode() in str(value) for text in TEXTS), key


def test_embedded_text_is_kept_where_the_instrumentation_tells_it(run_of: Callable[[str], Run]) -> None:
    (row,) = run_of("traceloop").generations("embeddings")
    assert "EMBEDDED-TEXT of four words" in row.row.text("langfuse.observation.input")
