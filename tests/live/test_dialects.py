"""Libraries that trace in vocabularies of their own, each as its users run it: what Langfuse gets is what was billed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from live.dialect_prompts import FAILING, SYSTEM
from live.launching import HERE, Run, Servers, launch, servers
from live.stub_anthropic import Billed, StubAnthropic
from otel_langfuse.demo.rows import Observation
from otel_langfuse.testing._stub_chat import answer_chat, answer_embeddings
from otel_langfuse.testing._stub_responses import answer_responses
from otel_langfuse.testing.stub_openai import RecordedRequest

pytestmark = pytest.mark.live

OFF = {"OTEL_LANGFUSE_CAPTURE_CONTENT": "false", "LANGFUSE_TRACING_ENVIRONMENT": "production"}


@dataclass(frozen=True)
class Library:
    """How a library is run, and what it does not tell."""

    environment: str
    script: str
    scenarios: tuple[str, ...]
    variables: dict[str, str | None] = field(default_factory=dict)
    launcher: bool = False
    # Scenarios whose generations have no input / no output.
    no_input: tuple[str, ...] = ()
    no_output: tuple[str, ...] = ()
    # Whether reasoning tokens are told apart from other output.
    reasoning: bool = True


OPENAI = ("chat", "bare_chat", "stream", "coroutine_stream", "tools", "responses", "embeddings", "failure")
ANTHROPIC = ("chat", "bare_chat", "cached", "stream", "bare_stream", "helper_stream", "lost_stream", "tools", "failure")
STREAMS = ("stream", "bare_stream", "coroutine_stream", "helper_stream", "lost_stream")
LIBRARIES = {
    "openinference": Library("openinference", "dialect_openai.py", OPENAI, {"INSTRUMENTATION": "openinference"}),
    "openlit": Library(
        "openlit",
        "dialect_openai.py",
        OPENAI,
        {"INSTRUMENTATION": "openlit"},
        no_input=("failure",),
        no_output=("embeddings",),
        reasoning=False,
    ),
    "pydantic_ai": Library(
        "pydantic_ai", "dialect_pydantic_ai.py", ("run", "bare_run", "stream", "failure"), no_input=("failure",)
    ),
    "langchain": Library(
        "langchain",
        "dialect_langchain.py",
        ("chain", "bare_chain", "tools", "bare_tools", "stream", "bare_stream", "embeddings", "failure"),
    ),
    "anthropic": Library(
        "anthropic",
        "dialect_anthropic.py",
        ANTHROPIC,
        launcher=True,
        # The SDK's own span is left, which has no content unless it is told to.
        no_input=("lost_stream",),
        no_output=("lost_stream",),
    ),
    "anthropic alone": Library(
        "anthropic",
        "dialect_anthropic.py",
        ANTHROPIC,
        {
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "anthropic",
            "ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content",
        },
        launcher=True,
        no_output=STREAMS,
    ),
}


def cases(*scenarios: str, told: str = "", unsolved: dict[tuple[str, str], str] | None = None) -> Any:
    """Parametrizes by library and scenario; without ``scenarios`` by all.

    Args:
        scenarios: Those to look at.
        told: ``input`` or ``output``: leaves out those whose generations have none.
        unsolved: Those that must fail, and why.
    """
    found = []
    for name, library in LIBRARIES.items():
        for one in library.scenarios:
            if (not scenarios or one in scenarios) and one not in getattr(library, f"no_{told}", ()):
                reason = (unsolved or {}).get((name, one))
                marks = [pytest.mark.xfail(reason=reason)] if reason else []
                found.append(pytest.param(name, one, marks=marks, id=f"{name}-{one}"))
    return pytest.mark.parametrize(("name", "scenario"), found)


each_library = pytest.mark.parametrize("name", LIBRARIES)


@dataclass(frozen=True)
class Asked:
    """A request that a model's API got, and its answer."""

    scenario: str
    model: str
    question: str
    answer: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    usage: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Played:
    """A run, and what it asked of the models."""

    library: Library
    run: Run
    asked: list[Asked]

    def of(self, scenario: str) -> list[Observation]:
        """What Langfuse shows of a scenario, in all its traces, in order of start."""
        return [found for found in self.run.observations if found.session == scenario]

    def generations(self, scenario: str) -> list[Observation]:
        return [found for found in self.of(scenario) if found.type in ("generation", "embedding")]

    def asked_in(self, scenario: str) -> list[Asked]:
        return [one for one in self.asked if one.scenario == scenario]

    def pairs(self, scenario: str) -> list[tuple[Observation, Asked]]:
        return list(zip(self.generations(scenario), self.asked_in(scenario), strict=True))


def buckets(**tokens: int) -> dict[str, int]:
    """As Langfuse names them; of parts that were not used nothing is said."""
    kept = {name: count for name, count in tokens.items() if count or name in ("input", "output")}
    return {**kept, "total": sum(kept.values())}


def scenario_of(body: Any) -> str:
    (found,) = set(re.findall(r"USER-PROMPT-TEXT <(\w+)>", json.dumps(body)))
    return str(found)


def text_of(content: Any) -> str:
    """The text of a message, also where it is in parts."""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text") or text_of(part.get("content", ""))) for part in content or ())


def asked_of_openai(request: RecordedRequest, reasoning: bool) -> Asked:
    body = request.body
    model = str(body["model"])
    said = body.get("messages") or body["input"]
    question = said if isinstance(said, str) else text_of(said[-1]["content"] if isinstance(said[-1], dict) else said[0])
    if model == FAILING:
        return Asked(scenario_of(body), model, question)
    if request.path == "/v1/embeddings":
        usage = answer_embeddings(body)["usage"]
        return Asked(
            scenario_of(body), model, question, usage={"input": usage["prompt_tokens"], "total": usage["total_tokens"]}
        )
    if request.path == "/v1/responses":
        given = answer_responses(body, 0, 0)
        usage = buckets(input=given["usage"]["input_tokens"], output=given["usage"]["output_tokens"])
        return Asked(scenario_of(body), given["model"], question, given["output"][0]["content"][0]["text"], usage=usage)
    given = answer_chat(body, 0, 0)
    usage, message = given["usage"], given["choices"][0]["message"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    reasoned = usage["completion_tokens_details"]["reasoning_tokens"] if reasoning else 0
    return Asked(
        scenario_of(body),
        given["model"],
        question,
        message["content"] or "",
        tuple((call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message.get("tool_calls", ())),
        buckets(
            input=usage["prompt_tokens"] - cached,
            input_cached_tokens=cached,
            output=usage["completion_tokens"] - reasoned,
            output_reasoning_tokens=reasoned,
        ),
    )


def asked_of_anthropic(billed: Billed) -> Asked:
    body, tokens = billed.body, billed.tokens
    question = text_of(body["messages"][-1]["content"])
    if not tokens:
        return Asked(scenario_of(body), body["model"], question)
    return Asked(
        scenario_of(body),
        f"{body['model']}-20261101",
        question,
        " ".join(block["text"] for block in billed.blocks if block["type"] == "text"),
        tuple((block["name"], block["input"]) for block in billed.blocks if block["type"] == "tool_use"),
        buckets(
            input=tokens["input_tokens"],
            input_cached_tokens=tokens["cache_read_input_tokens"],
            input_cache_creation=tokens["cache_creation_input_tokens"],
            output=tokens["output_tokens"],
        ),
    )


def play(library: Library, ends: Servers, stub: StubAnthropic, prices: Path, variables: dict[str, str]) -> Played:
    own = {"ANTHROPIC_BASE_URL": stub.url, "ANTHROPIC_API_KEY": "stub", "PRICES": str(prices)}
    run = launch(
        library.environment,
        HERE / library.script,
        {**own, **library.variables, **variables},
        launcher=library.launcher,
        ends=ends,
    )
    assert run.code == 0, run.err
    asked = [asked_of_openai(one, library.reasoning) for one in ends.stub.requests if one.method == "POST"]
    return Played(library, run, asked + [asked_of_anthropic(one) for one in stub.bill])


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Played]:
    """Runs each library once, and once more for each set of variables."""
    made: dict[str, Played] = {}
    prices = tmp_path_factory.mktemp("prices") / "prices.json"
    prices.write_text('{"chat": {}, "embeddings": {}}')

    def find(name: str, variables: dict[str, str] | None = None) -> Played:
        key = f"{name} {variables}"
        if key not in made:
            with ExitStack() as stack:
                ends, stub = stack.enter_context(servers()), stack.enter_context(StubAnthropic())
                made[key] = play(LIBRARIES[name], ends, stub, prices, variables or {})
        return made[key]

    return find


@pytest.fixture
def story(name: str, played: Callable[..., Played]) -> Played:
    return played(name)


def messages(one: Observation) -> list[dict[str, Any]]:
    parsed = json.loads(one.row.text("langfuse.observation.input"))
    found: list[dict[str, Any]] = parsed["messages"] if isinstance(parsed, dict) else parsed
    return found


def answer(one: Observation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(one.row.text("langfuse.observation.output"))
    return found


def ancestors(one: Observation, among: list[Observation]) -> list[Observation]:
    by_id = {other.row.span_id: other for other in among if other.row.trace_id == one.row.trace_id}
    found = []
    while (above := by_id.get((found[-1] if found else one).row.parent_id)) is not None:
        found.append(above)
    return found


@each_library
def test_the_application_ends_well_and_at_once(story: Played) -> None:
    assert story.run.warnings == []
    assert story.run.exit_seconds < 5
    assert set(story.run.told) == {one.scenario for one in story.asked} == set(story.library.scenarios)


NO_ID = "two spans of one call, neither inside the other, and no response id that would tell so"


@cases(
    unsolved={
        ("langchain", "stream"): NO_ID,
        ("langchain", "bare_stream"): NO_ID,
        ("langchain", "failure"): NO_ID,
        ("anthropic", "failure"): NO_ID,
    }
)
def test_each_call_is_one_generation_with_its_model_and_its_tokens(story: Played, scenario: str) -> None:
    found, asked = story.generations(scenario), story.asked_in(scenario)
    assert asked
    assert [(one.model, one.usage) for one in found] == [(one.model, one.usage) for one in asked]
    kind = "embedding" if scenario == "embeddings" else "generation"
    assert {one.type for one in found} == {kind}


@each_library
def test_only_calls_are_billed(story: Played) -> None:
    assert {one.type for one in story.run.observations if one.usage or one.model} <= {"generation", "embedding"}


@cases(told="input", unsolved={("anthropic", "failure"): NO_ID})
def test_the_question_is_the_input(story: Played, scenario: str) -> None:
    questions = [one.question for one in story.asked_in(scenario)]
    if scenario == "embeddings":
        assert [text_of_embedding(one) for one in story.generations(scenario)] == questions
        return
    for one in story.generations(scenario):
        system, user, *_, last = [*messages(one), messages(one)[-1]]
        assert system == {"role": "system", "content": SYSTEM}
        assert user["role"] == "user"
        assert user["content"].startswith(f"USER-PROMPT-TEXT <{scenario}>")
        assert any(text_of(last["content"]) in question for question in questions)


def text_of_embedding(one: Observation) -> str:
    text = one.row.text("langfuse.observation.input")
    return text if not text.startswith("[") else str(json.loads(text)[0]["content"])


@cases(told="output", unsolved={("langchain", "stream"): NO_ID, ("langchain", "bare_stream"): NO_ID})
def test_the_answer_is_the_output(story: Played, scenario: str) -> None:
    if scenario in ("failure", "embeddings"):  # which answer no words
        assert all("stub" not in one.row.text("langfuse.observation.output") for one in story.generations(scenario))
        return
    for one, asked in story.pairs(scenario):
        said = answer(one)
        assert said["role"] == "assistant"
        assert (said["content"] or "") == asked.answer
        calls = said.get("tool_calls", [])
        assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls] == list(asked.calls)
        assert all(call["id"] and call["type"] == "function" for call in calls)


@cases("tools", "bare_tools", "run", "bare_run")
def test_tools_and_their_results_stand_in_the_input(story: Played, scenario: str) -> None:
    first, second = story.generations(scenario)
    asked = story.asked_in(scenario)[0]
    results = [message for message in messages(second) if message["role"] == "tool"]
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in answer(first)["tool_calls"]]
    assert [text_of(result["content"]) for result in results] == [
        f"TOOL-RESULT-TEXT {given['city']} 20 degrees" for _, given in asked.calls
    ]


@pytest.mark.parametrize("name", ["openinference", "pydantic_ai", "langchain", "anthropic"])
def test_definitions_of_tools_stand_in_the_input(story: Played) -> None:
    first = story.generations("run" if name_is_agent(story) else "tools")[0]
    (tool,) = json.loads(first.row.text("langfuse.observation.input"))["tools"]
    assert tool["type"] == "function"
    assert tool["function"]["name"] == "get_weather"
    assert tool["function"]["description"].startswith("TOOL-DESCRIPTION-TEXT")
    assert list(tool["function"]["parameters"]["properties"]) == ["city"]


def name_is_agent(story: Played) -> bool:
    return "run" in story.library.scenarios


@cases(*STREAMS, unsolved={("langchain", "stream"): NO_ID, ("langchain", "bare_stream"): NO_ID})
def test_streams_have_the_time_of_their_first_token(story: Played, scenario: str) -> None:
    for one, _ in story.pairs(scenario):
        assert one.first_token_ms is not None
        assert 15 < one.first_token_ms <= (one.row.end_ns - one.row.start_ns) / 1_000_000 + 1, "the stubs wait 20 ms"


@cases("failure")
def test_a_failed_call_is_an_error_that_costs_nothing(story: Played, scenario: str) -> None:
    found = story.generations(scenario)
    assert found
    for one in found:
        assert (one.level, one.cost, one.usage, one.model) == ("ERROR", 0, {}, FAILING)
        assert not one.row.text("langfuse.observation.output")
    reasons = " ".join(one.row.text("langfuse.observation.status_message") for one in found)
    assert FAILING in reasons or reasons == "not_found_error"


@each_library
def test_only_failures_are_errors(story: Played) -> None:
    assert {one.session for one in story.run.observations if one.level != "DEFAULT"} == {"failure"}


@each_library
def test_both_copies_have_the_same_ids_and_nothing_twice(story: Played) -> None:
    in_tempo = Counter((row.trace_id, row.span_id, row.parent_id) for row in story.run.tempo)
    in_langfuse = Counter((row.trace_id, row.span_id) for row in story.run.langfuse)
    assert set(in_langfuse.values()) == set(in_tempo.values()) == {1}
    assert set(in_langfuse) <= {(trace_id, span_id) for trace_id, span_id, _ in in_tempo}
    scopes = {row.scope for row in story.run.langfuse}
    assert {row.scope for row in story.run.tempo} - scopes <= {"opentelemetry.instrumentation.httpx"}


@each_library
def test_each_trace_has_one_root_and_no_orphan(story: Played) -> None:
    known = {(row.trace_id, row.span_id) for row in story.run.langfuse}
    roots = Counter(row.trace_id for row in story.run.langfuse if not row.parent_id)
    assert roots == dict.fromkeys((row.trace_id for row in story.run.langfuse), 1)
    assert all((row.trace_id, row.parent_id) in known for row in story.run.langfuse if row.parent_id)


@cases()
def test_a_scenario_is_one_trace_with_its_user(story: Played, scenario: str) -> None:
    found = story.of(scenario)
    assert {one.user for one in found} == {"ada"}
    if scenario.startswith("bare"):
        # The second span of a call may stand in a trace of its own, and is no call there.
        assert len({one.row.trace_id for one in story.generations(scenario)}) in (1, len(story.generations(scenario)))
        return
    assert {one.row.trace_id for one in found} == {found[0].row.trace_id}
    assert (found[0].row.name, found[0].row.parent_id) == (f"scenario {scenario}", "")


@each_library
def test_every_row_belongs_to_a_scenario(story: Played) -> None:
    assert {one.session for one in story.run.observations} == set(story.library.scenarios)


@pytest.mark.parametrize("name", ["pydantic_ai"])
@pytest.mark.parametrize("scenario", ["run", "bare_run", "stream"])
def test_an_agent_is_an_agent_and_its_tools_are_tools(story: Played, scenario: str) -> None:
    (agent,) = [one for one in story.of(scenario) if one.type == "agent"]
    below = [one for one in story.of(scenario) if one.row.parent_id == agent.row.span_id]
    assert [one.type for one in below] == ["generation", "tool", "tool", "generation"]
    for one, city in zip(below[1:3], ("Paris", "Rome"), strict=True):
        assert one.row.name == "get_weather"
        assert json.loads(one.row.text("langfuse.observation.input")) == {"city": city}
        assert one.row.text("langfuse.observation.output") == f"TOOL-RESULT-TEXT {city} 20 degrees"
    assert "USER-PROMPT-TEXT" in agent.row.text("langfuse.observation.input")
    assert "Here is what I found" in agent.row.text("langfuse.observation.output")


@pytest.mark.parametrize("name", ["langchain"])
@pytest.mark.parametrize(
    ("scenario", "depth"),
    [
        ("chain", 2),
        ("bare_chain", 1),
        ("tools", 2),
        ("bare_tools", 1),
    ],
)
def test_the_calls_of_a_chain_stand_below_it(story: Played, scenario: str, depth: int) -> None:
    for one in story.generations(scenario):
        above = ancestors(one, story.of(scenario))
        assert len(above) >= depth
        assert above[0].type == "chain"


@pytest.mark.parametrize("name", ["langchain"])
@pytest.mark.parametrize("scenario", ["tools", "bare_tools"])
def test_the_tools_of_a_chain_are_tools_below_it(story: Played, scenario: str) -> None:
    tools = [one for one in story.of(scenario) if one.type == "tool"]
    assert [one.row.name for one in tools] == ["get_weather"] * 2
    for one, city in zip(tools, ("Paris", "Rome"), strict=True):
        assert ancestors(one, story.of(scenario))[0].row.name == "use_tools"
        assert city in one.row.text("langfuse.observation.input")
        assert f"TOOL-RESULT-TEXT {city} 20 degrees" in one.row.text("langfuse.observation.output")


TEXTS = ("SYSTEM-INSTRUCTION-TEXT", "USER-PROMPT-TEXT", "TOOL-RESULT-TEXT", "stub model's answer", "TOOL-DESCRIPTION-TEXT")


@each_library
def test_metadata_repeats_no_content(story: Played) -> None:
    for row in story.run.langfuse:
        for key, value in row.attributes.items():
            if ".metadata." in key and not key.endswith(".tool.description"):
                assert [text for text in TEXTS if text in str(value)] == [], key


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_forbidden_content_does_not_leave(name: str, text: str, played: Callable[..., Played]) -> None:
    told, silent = played(name), played(name, OFF)
    assert len(silent.run.langfuse) == len(told.run.langfuse)
    assert text.encode() not in silent.run.langfuse_bytes


@each_library
def test_the_configured_environment_holds(name: str, played: Callable[..., Played]) -> None:
    """Some libraries write ``default`` on their spans when they were told none."""
    assert {row.text("langfuse.environment") for row in played(name, OFF).run.langfuse} == {"production"}


@each_library
def test_parameters_are_those_that_were_requested(story: Played) -> None:
    wanted = {"temperature": 0.5} if "dialect_openai" in story.library.script else {}
    if "anthropic" in story.library.script:
        wanted = {"max_tokens": 200}
    for one in story.generations("chat"):
        assert json.loads(one.row.text("langfuse.observation.model.parameters")) == wanted
    for scenario in {"responses", "bare_chain", "run"} & set(story.library.scenarios):
        assert {one.row.text("langfuse.observation.model.parameters") for one in story.generations(scenario)} == {""}
