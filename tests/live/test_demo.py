"""The whole demo, as ``make demo`` runs it: a real app under ``opentelemetry-instrument``, both copies, all checks."""

from __future__ import annotations

import os

import pytest

from otel_langfuse.demo import runner


@pytest.mark.live
def test_the_demo_keeps_all_its_promises(capfd: pytest.CaptureFixture[str]) -> None:
    own = ("OTEL_", "LANGFUSE_", "OPENAI_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    code = runner.run(environ={**environ, "DEMO_ONCE": "1"}, serve=True)
    out, err = capfd.readouterr()
    assert code == 0, out + err
    assert "NO  " not in out
    assert "Tempo to Langfuse: langfuse.trace.url = http://127.0.0.1" in out
    assert err == ""
