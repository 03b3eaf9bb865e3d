"""Starts a script as a user would, with ``opentelemetry-instrument`` and environment variables, between stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from live.environments import provide
from otel_langfuse.demo.rows import Observation, Row, observe, read_rows
from otel_langfuse.testing import FakeLangfuse, OtlpSink
from otel_langfuse.testing.stub_openai import StubOpenAI

__all__ = ["HERE", "PUBLIC", "SECRET", "Run", "Servers", "environ_of", "launch", "servers"]

HERE = Path(__file__).parent
PUBLIC, SECRET = "pk-lf-live", "sk-lf-live"
_LIMIT = 90.0
_OWN = ("OTEL_", "LANGFUSE_", "OPENAI_", "TRACELOOP_", "PYTHON", "COVERAGE_")


@dataclass
class Servers:
    """The other ends of an application: models, Tempo, Langfuse."""

    stub: StubOpenAI
    tempo: OtlpSink
    langfuse: FakeLangfuse

    @property
    def variables(self) -> dict[str, str]:
        """What a user sets, and where the models are."""
        return {
            "OTEL_SERVICE_NAME": "live",
            "OTEL_TRACES_EXPORTER": "otlp,langfuse",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.tempo.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "LANGFUSE_PUBLIC_KEY": PUBLIC,
            "LANGFUSE_SECRET_KEY": SECRET,
            "LANGFUSE_BASE_URL": self.langfuse.url,
            "OPENAI_API_KEY": "stub",
            "OPENAI_BASE_URL": self.stub.url,
            "PING_URL": f"{self.stub.root}/ping/weather",
        }


@dataclass
class Run:
    """A process that has ended, and what came of it."""

    code: int
    out: str
    err: str
    ended_at: float
    tokens: int
    tempo: list[Row]
    langfuse: list[Row]
    tempo_bytes: bytes = field(repr=False)
    langfuse_bytes: bytes = field(repr=False)

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the script said it did: its last line."""
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])["scenarios"]
        return found

    @cached_property
    def exit_seconds(self) -> float:
        """How long the process took to end after the script's last line."""
        return float(self.ended_at - json.loads(self.out.splitlines()[-1])["done_at"])

    @cached_property
    def observations(self) -> list[Observation]:
        """What Langfuse shows."""
        return [observe(row) for row in self.langfuse]

    def of(self, scenario: str) -> list[Observation]:
        """What Langfuse shows of one scenario, in order of start."""
        return [found for found in self.observations if found.row.trace_id == self.told[scenario]["trace_id"]]

    def generations(self, scenario: str) -> list[Observation]:
        """The calls of models among them."""
        return [found for found in self.of(scenario) if found.type in ("generation", "embedding")]

    @property
    def warnings(self) -> list[str]:
        """The lines on stderr that are ours."""
        return [line for line in self.err.splitlines() if "otel-langfuse" in line or "otel_langfuse" in line]


@contextmanager
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(
            stack.enter_context(StubOpenAI()),
            stack.enter_context(OtlpSink()),
            stack.enter_context(FakeLangfuse(public_key=PUBLIC, secret_key=SECRET)),
        )


def environ_of(variables: Mapping[str, str | None]) -> dict[str, str]:
    """A child's environment: what has nothing to do with the tests, and ``variables``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    environ = {name: value for name, value in inherited.items() if not name.lower().endswith("_proxy")}
    return environ | {name: value for name, value in variables.items() if value is not None}


def launch(
    environment: str,
    script: Path,
    variables: Mapping[str, str | None] | None = None,
    *,
    launcher: bool = True,
    ends: Servers | None = None,
) -> Run:
    """Runs a script to its end.

    Args:
        environment: Name of the virtual environment.
        script: What to run.
        variables: Set on top of ``Servers.variables``; ``None`` takes one away.
        launcher: Whether ``opentelemetry-instrument`` starts it.
        ends: Servers that are up already; otherwise there are new ones for this run.
    """
    if ends is None:
        with servers() as ends:
            return launch(environment, script, variables, launcher=launcher, ends=ends)
    python = provide(environment)
    environ = environ_of({**ends.variables, **(variables or {})})
    command = [str(python), str(script)]
    if launcher:
        command.insert(0, str(python.with_name("opentelemetry-instrument")))
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_LIMIT)
    return Run(
        code=done.returncode,
        out=done.stdout,
        err=done.stderr,
        ended_at=time.time(),
        tokens=ends.stub.tokens,
        tempo=read_rows(ends.tempo.exports),
        langfuse=read_rows(ends.langfuse.exports),
        tempo_bytes=b"".join(request.payload for request in ends.tempo.requests),
        langfuse_bytes=b"".join(request.payload for request in ends.langfuse.requests),
    )
