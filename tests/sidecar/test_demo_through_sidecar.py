"""The demo application, which knows nothing of Langfuse, through the sidecar: the same two trees as in process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_langfuse.demo.runner import App, make_plan
from otel_langfuse.testing import FakeLangfuse, OtlpSink
from otel_langfuse.testing.stub_openai import StubOpenAI
from sidecar.sidecar_process import SidecarProcess, free_port

pytestmark = pytest.mark.live

CONFIG = """
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}
processors:
  langfuse: {{settle: 200ms, environment: demo}}
exporters:
  langfuse: {{base_url: "{langfuse}", public_key: pk-lf-demo, secret_key: sk-lf-demo}}
  otlp_http/tempo: {{endpoint: "{tempo}"}}
service:
  pipelines:
    traces/langfuse: {{receivers: [otlp], processors: [langfuse], exporters: [langfuse]}}
    traces/tempo: {{receivers: [otlp], exporters: [otlp_http/tempo]}}
"""


def tree(spans: list[Span]) -> list[str]:
    """Names and how they hang together; siblings by start."""
    below: dict[bytes, list[Span]] = {}
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda span: span.start_time_unix_nano):
        below.setdefault(span.parent_span_id if span.parent_span_id in known else b"", []).append(span)

    def lines(parent: bytes, depth: int) -> list[str]:
        out = []
        for span in below.get(parent, ()):
            kinds = [pair.value.string_value for pair in span.attributes if pair.key == "langfuse.observation.type"]
            out += ["  " * depth + " ".join([span.name, *kinds]), *lines(span.span_id, depth + 1)]
        return out

    return lines(b"", 0)


def ask(variables: Mapping[str, str]) -> None:
    with App(variables) as app:
        httpx.post(f"{app.url}/ask", json={"text": "Oslo or Rome?"}, timeout=40, trust_env=False).raise_for_status()
        assert app.stop() == 0


def test_the_demo_through_the_sidecar_shows_the_same_two_trees(tmp_path: Path) -> None:
    with StubOpenAI() as stub, FakeLangfuse() as langfuse, OtlpSink() as tempo:
        plan = make_plan(os.environ, stub_root=stub.root, langfuse_url=langfuse.url, otlp_url=tempo.url)
        ask(plan.environment)
        in_process = tree(langfuse.spans), tree(tempo.spans)
    with FakeLangfuse() as langfuse, OtlpSink() as tempo, StubOpenAI() as stub:
        port = free_port()
        config = tmp_path / "otel-config.yaml"
        config.write_text(CONFIG.format(port=port, langfuse=langfuse.url, tempo=tempo.url))
        with SidecarProcess(config) as sidecar:
            url = f"http://127.0.0.1:{port}"
            plan = make_plan(os.environ, stub_root=stub.root, langfuse_url=url, otlp_url=url)
            theirs = {name: value for name, value in plan.environment.items() if not name.startswith("LANGFUSE_")}
            ask(theirs | {"OTEL_TRACES_EXPORTER": "otlp"})
            assert sidecar.stop() == 0
        rows, copies = tree(langfuse.spans), tree(tempo.spans)
        # The trace's name is told in process only; without it the entry span's own route stands for it.
        assert (in_process[0][0], rows[0]) == ("travel-assistant span", "/ask span")
        assert (rows[1:], copies) == (in_process[0][1:], in_process[1])
        assert {span.span_id for span in langfuse.spans} <= {span.span_id for span in tempo.spans}
        assert len(in_process[0]) > 4
