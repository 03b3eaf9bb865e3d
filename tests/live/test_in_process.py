"""With other people's packages in one process: the Langfuse SDK, the OpenAI SDK without a launcher, Gunicorn."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections import Counter

import pytest

from live.environments import provide
from live.launching import HERE, Run, Servers, environ_of, launch

pytestmark = pytest.mark.live


def beside(ends: Servers, case: str, *, launcher: bool = False) -> Run:
    # The SDK's client for media and scores looks for a host on its own; the spans are what counts here.
    run = launch("langfuse", HERE / "beside_sdk.py", {"CASE": case}, launcher=launcher, ends=ends)
    assert run.code == 0, run.err
    return run


def senders(ends: Servers) -> Counter[str]:
    """Who sent spans: both name themselves."""
    return Counter(
        "ours" if request.headers["x-langfuse-sdk-name"] == "otel-langfuse" else "theirs"
        for request in ends.langfuse.requests
        if request.path.endswith("/v1/traces")
    )


@pytest.mark.parametrize("launcher", [False, True], ids=["in code", "launcher"])
def test_beside_the_sdk_with_the_same_key_ours_yields(ends: Servers, launcher: bool) -> None:
    run = beside(ends, "same project", launcher=launcher)
    assert set(senders(ends)) == {"theirs"}
    assert sorted(row.name for row in run.langfuse) == ["answer", "turn"]
    (warning,) = run.warnings
    assert "Langfuse(span_exporter=LangfuseSpanExporter())" in warning


def test_beside_the_sdk_with_another_key_both_send(ends: Servers) -> None:
    run = beside(ends, "another project")
    assert set(senders(ends)) == {"ours", "theirs"}
    # The stand-in knows one project: it stores ours and refuses theirs.
    assert sorted(row.name for row in run.langfuse) == ["answer", "turn"]
    assert run.warnings == []


@pytest.mark.parametrize("launcher", [False, True], ids=["in code", "launcher"])
def test_our_exporter_in_the_sdk_beside_our_processor_sends_once(ends: Servers, launcher: bool) -> None:
    run = beside(ends, "exporter too", launcher=launcher)
    assert set(senders(ends)) == {"ours"}
    assert sorted(row.name for row in run.langfuse) == ["answer", "turn"]
    assert run.warnings == []


def test_our_exporter_in_the_sdk_maps_its_spans_once(ends: Servers) -> None:
    run = beside(ends, "exporter only")
    assert set(senders(ends)) == {"ours"}
    (generation,) = [one for one in run.observations if one.type == "generation"]
    assert (generation.row.name, generation.model, generation.total) == ("answer", "gpt-4o-mini", 7)
    assert "asked by the SDK" in generation.row.text("langfuse.observation.input")
    assert "answered by the SDK" in generation.row.text("langfuse.observation.output")
    (root,) = [row for row in run.langfuse if not row.parent_id]
    assert (root.name, generation.row.parent_id) == ("turn", root.span_id)
    assert len(run.langfuse) == 2


@pytest.mark.parametrize("environment", ["traceloop", "genai"])
def test_a_setting_instruments_the_openai_sdk_without_the_launcher_once(ends: Servers, environment: str) -> None:
    run = launch(environment, HERE / "in_code.py", {"LANGFUSE_OPENAI_INSTRUMENTATION": "true"}, launcher=False, ends=ends)
    assert run.code == 0, run.err
    assert run.warnings == []
    turn, call = run.observations
    assert turn.row.name == "turn"
    assert (call.type, call.total, call.user) == ("generation", run.tokens, "ada")
    assert call.row.parent_id == turn.row.span_id
    assert "PROMPT-TEXT" in call.row.text("langfuse.observation.input")


def test_without_that_setting_nothing_is_instrumented(ends: Servers) -> None:
    run = launch("traceloop", HERE / "in_code.py", launcher=False, ends=ends)
    assert run.code == 0, run.err
    assert run.langfuse == []


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["workers load", "preload"])
def test_workers_of_gunicorn_send_what_they_did_before_they_end(ends: Servers, options: list[str]) -> None:
    python = provide("traceloop")
    command = [
        str(python.with_name("opentelemetry-instrument")),
        str(python.with_name("gunicorn")),
        *["--workers", "2", "--bind", "127.0.0.1:0", "--chdir", str(HERE), "--no-control-socket", *options],
        "wsgi:application",
    ]
    # Nothing leaves by itself: what arrives was sent because the workers ended.
    environ = environ_of({**ends.variables, "LANGFUSE_FLUSH_INTERVAL": "60"})
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = ""
        workers = set()
        try:
            for line in server.stderr:
                said += line
                if found := re.search(r"Listening at: (http://\S+)", line):
                    break
            else:
                pytest.fail(said)
            for number in range(12):
                with urllib.request.urlopen(f"{found[1]}/{number}", timeout=30) as answer:
                    workers.add(answer.read().decode())
            server.terminate()
            said += server.stderr.read()
            assert server.wait(30) == 0, said
        finally:
            server.kill()
    stored = Counter(span.name for span in ends.langfuse.spans)
    assert stored == {"openai.chat": 12, **{f"/{number}": 1 for number in range(12)}}, said
    served = {
        pair.value.string_value
        for span in ends.langfuse.spans
        for pair in span.attributes
        if pair.key == "langfuse.trace.metadata.worker"
    }
    assert served == workers
    assert "Traceback" not in said
