"""Settings that cannot work: the application runs, Tempo's copy is complete, and one warning says what to do."""

from __future__ import annotations

import socket
import textwrap
from pathlib import Path

import pytest

from live.launching import HERE, PUBLIC, SECRET, Run, Servers, launch

pytestmark = pytest.mark.live

ONLY = {"SCENARIOS": "plain"}


def start(ends: Servers, environment: str = "traceloop", **variables: str | None) -> Run:
    return launch(environment, HERE / "scenarios.py", {**ONLY, **variables}, ends=ends)


def assert_unharmed(run: Run) -> None:
    """The application did its work and the other instrumentations told Tempo about it."""
    assert run.code == 0
    assert run.told["plain"]["calls"][0]["tokens"] == run.tokens
    assert run.exit_seconds < 5
    assert {row.name for row in run.tempo} == {"scenario plain", "application noise", "openai.chat", "GET", "POST"}
    assert "Traceback" not in run.err


def the_warning(run: Run) -> str:
    """The one line that was said."""
    (line,) = run.err.strip().splitlines()
    assert "otel-langfuse" in line
    assert SECRET not in line
    return line


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LANGFUSE_PUBLIC_KEY": None, "LANGFUSE_SECRET_KEY": None}, "and LANGFUSE_SECRET_KEY are not set"),
        ({"LANGFUSE_PUBLIC_KEY": PUBLIC, "LANGFUSE_SECRET_KEY": None}, "but LANGFUSE_SECRET_KEY is not"),
    ],
    ids=["no keys", "half of them"],
)
def test_without_keys_nothing_is_sent(ends: Servers, variables: dict[str, str | None], said: str) -> None:
    run = start(ends, **variables)
    assert_unharmed(run)
    assert said in the_warning(run)
    assert ends.langfuse.requests == []


def test_switched_off_nothing_is_said(ends: Servers) -> None:
    run = start(ends, LANGFUSE_TRACING_ENABLED="false", LANGFUSE_SECRET_KEY=None)
    assert_unharmed(run)
    assert run.err == ""
    assert ends.langfuse.requests == []


def test_a_value_that_is_no_number_gives_way_to_the_default(ends: Servers) -> None:
    run = start(ends, LANGFUSE_TIMEOUT="soon")
    assert_unharmed(run)
    warning = the_warning(run)
    assert "LANGFUSE_TIMEOUT" in warning
    assert "'soon'" in warning
    assert [row.name for row in run.langfuse] == ["scenario plain", "openai.chat"]


def test_a_mask_that_is_not_known_lets_no_text_through(ends: Servers) -> None:
    run = start(ends, OTEL_LANGFUSE_MASK="emial")
    assert_unharmed(run)
    warning = the_warning(run)
    assert "emial" in warning
    assert "email" in warning
    (call,) = run.generations("plain")
    assert call.row.text("langfuse.observation.input") == "[masking failed]"
    assert call.total == run.tokens
    assert b"PROMPT-TEXT" not in run.langfuse_bytes


def test_a_wrong_address_sends_prompts_nowhere_else(ends: Servers) -> None:
    """Above all not to the default address: whoever has a Langfuse of their own does not want prompts in the cloud."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        run = start(ends, LANGFUSE_BASE_URL="langfuse,internal:3000", HTTPS_PROXY=address, NO_PROXY="127.0.0.1")
        proxy.setblocking(False)
        try:
            proxy.accept()[0].close()
        except BlockingIOError:
            visited = False
        else:
            visited = True
    assert not visited
    assert_unharmed(run)
    assert "LANGFUSE_BASE_URL" in the_warning(run)
    assert ends.langfuse.requests == []


def test_langfuse_that_refuses_the_keys_is_named(ends: Servers) -> None:
    run = start(ends, LANGFUSE_SECRET_KEY="sk-lf-other")
    assert_unharmed(run)
    assert len(ends.langfuse.requests) == 1, "a refused key is not tried again"
    assert run.langfuse == []
    warning = the_warning(run)
    assert "401" in warning
    assert "keys" in warning
    assert "sk-lf-other" not in warning


def test_langfuse_that_is_down_costs_nothing_but_its_copy(ends: Servers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    run = start(ends, LANGFUSE_BASE_URL=address, OTEL_LANGFUSE_SHUTDOWN_TIMEOUT="1")
    assert_unharmed(run)
    assert "reason=shutdown, now 2" in run.err


def test_tempo_that_never_answers_does_not_take_langfuse_with_it(ends: Servers) -> None:
    """The exporter in front of ours hangs; the deadline of OpenTelemetry's own exporter ends the process, not ours."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = start(ends, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_EXPORTER_OTLP_TIMEOUT="2")
    assert run.code == 0
    assert [row.name for row in run.langfuse] == ["scenario plain", "openai.chat"]


@pytest.mark.parametrize("module", ["sdk.launch", "sdk.batches", "langfuse.delivery"])
def test_a_package_that_cannot_be_imported_harms_nobody(ends: Servers, tmp_path: Path, module: str) -> None:
    """As after a half finished upgrade. The entry points are loaded by the launcher, which gives up on an error."""
    shim = tmp_path / "otel_langfuse" / "__init__.py"
    shim.parent.mkdir()
    shim.write_text(
        textwrap.dedent(f"""
        import sys
        from pathlib import Path

        class Broken:
            def find_spec(self, name, path=None, target=None):
                if name == "otel_langfuse.{module}":
                    raise ImportError("broken on purpose")

        sys.meta_path.insert(0, Broken())
        source = Path({str(HERE.parents[1] / "src" / "otel_langfuse")!r})
        __path__ = [str(source)]
        exec((source / "__init__.py").read_text())
        """)
    )
    run = start(ends, PYTHONPATH=str(tmp_path))
    assert_unharmed(run)
    assert "nothing is sent to Langfuse" in the_warning(run)
    assert ends.langfuse.requests == []
