"""What is compared: ways to get spans out of a process. Built inside the measured process.

Whatever a candidate needs is imported here, inside its function, so that a process holds one candidate and no other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from bench.workload import SCOPE

__all__ = ["CANDIDATES", "Candidate", "Endpoints", "Kind", "build"]


@dataclass(frozen=True)
class Endpoints:
    """Where the copies go."""

    tempo: str
    tempo_grpc: str
    langfuse: str


@dataclass(frozen=True)
class Kind:
    """How a candidate's process is started, and what it sends where; `titles` has the names.

    Attributes:
        python: Which environment's interpreter runs it: ``main`` or one of ``envs.ENVS``.
        launcher: Whether ``opentelemetry-instrument`` starts it.
        tempo, langfuse: Which endpoints get spans.
        all_rows: Whether both spans of each trace are sent to Langfuse.
    """

    python: str = "main"
    launcher: bool = False
    tempo: bool = False
    langfuse: bool = False
    all_rows: bool = True


CANDIDATES: dict[str, Kind] = {
    "sdk": Kind(),
    "otlp": Kind(tempo=True),
    "fanout_http": Kind(tempo=True, langfuse=True),
    "fanout_grpc": Kind(tempo=True, langfuse=True),
    "langfuse": Kind(python="bench-langfuse", langfuse=True),
    "langfuse_filtered": Kind(python="bench-langfuse", langfuse=True, all_rows=False),
    "ours": Kind(langfuse=True),
    "ours_unlinked": Kind(langfuse=True),
    "ours_fanout": Kind(tempo=True, langfuse=True),
    "ours_both": Kind(tempo=True, langfuse=True),
    "ours_env": Kind(launcher=True, tempo=True, langfuse=True),
}


@dataclass
class Candidate:
    """A provider that is set up."""

    provider: Any
    status: Callable[[], dict[str, Any]] = field(default=dict)

    @property
    def tracer(self) -> Any:
        """The tracer of the application."""
        return self.provider.get_tracer(SCOPE, "1.0")

    def flush(self) -> None:
        """Waits until everything is out."""
        self.provider.force_flush(120_000)

    def shutdown(self) -> None:
        """Shuts the provider down."""
        self.provider.shutdown()


def build(name: str, endpoints: Endpoints) -> Candidate:
    """Sets up candidate ``name``."""
    if name == "ours_env":
        return Candidate(trace.get_tracer_provider())
    candidate = Candidate(TracerProvider())
    _BUILDERS[name](candidate, endpoints)
    return candidate


def _sdk(candidate: Candidate, endpoints: Endpoints) -> None:
    pass


def _otlp(candidate: Candidate, endpoints: Endpoints) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=endpoints.tempo + "/v1/traces")
    candidate.provider.add_span_processor(BatchSpanProcessor(exporter))


def _otlp_grpc(candidate: Candidate, endpoints: Endpoints) -> None:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=endpoints.tempo_grpc, insecure=True)
    candidate.provider.add_span_processor(BatchSpanProcessor(exporter))


def _otlp_to_langfuse(candidate: Candidate, endpoints: Endpoints) -> None:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(
        endpoint=endpoints.langfuse + "/api/public/otel/v1/traces",
        compression=Compression.Gzip,
        headers={"Authorization": "Basic cGs6c2s=", "x-langfuse-ingestion-version": "4"},
    )
    candidate.provider.add_span_processor(BatchSpanProcessor(exporter))


def _fanout_http(candidate: Candidate, endpoints: Endpoints) -> None:
    _otlp(candidate, endpoints)
    _otlp_to_langfuse(candidate, endpoints)


def _fanout_grpc(candidate: Candidate, endpoints: Endpoints) -> None:
    _otlp_grpc(candidate, endpoints)
    _otlp_to_langfuse(candidate, endpoints)


def _langfuse(candidate: Candidate, endpoints: Endpoints) -> None:
    from langfuse import Langfuse

    Langfuse(
        public_key="pk-lf-bench",
        secret_key="sk-lf-bench",
        base_url=endpoints.langfuse,
        tracer_provider=candidate.provider,
        should_export_span=lambda span: True,
    )


def _langfuse_filtered(candidate: Candidate, endpoints: Endpoints) -> None:
    from langfuse import Langfuse

    Langfuse(
        public_key="pk-lf-bench",
        secret_key="sk-lf-bench",
        base_url=endpoints.langfuse,
        tracer_provider=candidate.provider,
    )


def _ours(candidate: Candidate, endpoints: Endpoints) -> None:
    from otel_langfuse import LangfuseSpanProcessor

    os.environ.setdefault("OTEL_LANGFUSE_COMPRESSION", "gzip")
    processor = LangfuseSpanProcessor(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url=endpoints.langfuse)
    candidate.provider.add_span_processor(processor)
    candidate.status = processor.status


def _ours_unlinked(candidate: Candidate, endpoints: Endpoints) -> None:
    os.environ["OTEL_LANGFUSE_SET_TRACE_URL"] = "false"
    _ours(candidate, endpoints)


def _ours_both(candidate: Candidate, endpoints: Endpoints) -> None:
    _ours(candidate, endpoints)
    _otlp(candidate, endpoints)


def _ours_fanout(candidate: Candidate, endpoints: Endpoints) -> None:
    os.environ["OTEL_LANGFUSE_FANOUT"] = "otlp"
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoints.tempo
    _ours(candidate, endpoints)


_BUILDERS: dict[str, Callable[[Candidate, Endpoints], None]] = {
    "sdk": _sdk,
    "otlp": _otlp,
    "fanout_http": _fanout_http,
    "fanout_grpc": _fanout_grpc,
    "langfuse": _langfuse,
    "langfuse_filtered": _langfuse_filtered,
    "ours": _ours,
    "ours_unlinked": _ours_unlinked,
    "ours_fanout": _ours_fanout,
    "ours_both": _ours_both,
}
