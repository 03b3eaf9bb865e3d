"""Runs that several tests look at, each made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from live.launching import HERE, Run, Servers, launch, servers

HOOK = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

# Name of a run -> environment, variables.
RUNS: dict[str, tuple[str, dict[str, str | None]]] = {
    "traceloop": ("traceloop", {}),
    "genai": ("genai", {}),
    "genai true": ("genai", {CAPTURE: "true"}),
    "genai span only": ("genai", {CAPTURE: "SPAN_ONLY"}),
    "genai event only": ("genai", {CAPTURE: "EVENT_ONLY"}),
    "genai span and event": ("genai", {CAPTURE: "SPAN_AND_EVENT"}),
    "genai no content": ("genai", {CAPTURE: "NO_CONTENT"}),
    "genai hook": ("genai", {HOOK: "langfuse"}),
    "genai events without hook": (
        "genai",
        {HOOK: "", CAPTURE: "EVENT_ONLY", "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT": "true"},
    ),
    "genai content off in Langfuse": ("genai", {CAPTURE: "SPAN_AND_EVENT", "OTEL_LANGFUSE_CAPTURE_CONTENT": "false"}),
    "openai_v2": ("openai_v2", {CAPTURE: "true"}),
}


@pytest.fixture(scope="session")
def run_of() -> Callable[[str], Run]:
    made: dict[str, Run] = {}

    def find(name: str) -> Run:
        if name not in made:
            environment, variables = RUNS[name]
            made[name] = launch(environment, HERE / "scenarios.py", variables)
            # Shown by pytest if this test fails.
            print(f"--- {name}: exit code {made[name].code}, stderr:\n{made[name].err}")
        return made[name]

    return find


@pytest.fixture
def ends() -> Iterator[Servers]:
    with servers() as found:
        yield found
