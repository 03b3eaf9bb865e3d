"""Both copies from one queue, set up by environment variables only, under the launcher."""

from __future__ import annotations

import pytest

from live.launching import HERE, Run, Servers, launch

pytestmark = pytest.mark.live

ONE_QUEUE = {"SCENARIOS": "plain", "OTEL_TRACES_EXPORTER": "langfuse", "OTEL_LANGFUSE_FANOUT": "otlp"}
EVERYTHING = ["GET", "POST", "application noise", "openai.chat", "scenario plain"]
PROMPT = b"USER-PROMPT-TEXT"


def start(ends: Servers, **variables: str | None) -> Run:
    run = launch("traceloop", HERE / "scenarios.py", {**ONE_QUEUE, **variables}, ends=ends)
    assert run.code == 0, run.err
    return run


@pytest.mark.parametrize("content", ["keep", "drop"])
def test_both_backends_get_their_copy(ends: Servers, content: str) -> None:
    run = start(ends, OTEL_LANGFUSE_FANOUT_CONTENT=content)
    assert run.err == ""
    assert run.exit_seconds < 5
    assert sorted(row.name for row in run.tempo) == EVERYTHING
    ids = {(row.trace_id, row.span_id) for row in run.tempo}
    assert {(row.trace_id, row.span_id) for row in run.langfuse} < ids
    (call,) = run.generations("plain")
    assert call.total == run.tokens
    assert PROMPT in run.langfuse_bytes
    assert (PROMPT in run.tempo_bytes) == (content == "keep")
    assert b"langfuse.trace.url" in run.tempo_bytes
    assert {found.headers["user-agent"].partition("/")[0] for found in ends.tempo.requests} == {"otel-langfuse"}


def test_with_the_protocol_that_the_launcher_chooses_nothing_is_sent_and_it_says_what_to_set(ends: Servers) -> None:
    run = start(ends, OTEL_EXPORTER_OTLP_PROTOCOL=None)
    assert run.tempo == []
    assert run.generations("plain")
    (warning,) = run.warnings
    assert "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf" in warning


def test_beside_the_stock_exporter_each_span_is_there_once(ends: Servers) -> None:
    run = start(ends, OTEL_TRACES_EXPORTER="otlp,langfuse")
    assert sorted(row.name for row in run.tempo) == EVERYTHING
    (warning,) = run.warnings
    assert "OTEL_TRACES_EXPORTER=langfuse" in warning


def test_without_keys_the_other_backend_still_gets_its_copy(ends: Servers) -> None:
    run = start(ends, LANGFUSE_PUBLIC_KEY=None, LANGFUSE_SECRET_KEY=None)
    assert sorted(row.name for row in run.tempo) == EVERYTHING
    assert run.langfuse == []
    (warning,) = run.warnings
    assert "nothing is sent to Langfuse" in warning
