"""Every test starts without OpenTelemetry or Langfuse settings in its environment."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LANGFUSE_", "OTEL_", "TRACELOOP_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
