"""GenAI observability that is OpenTelemetry first: one trace, rich in Langfuse, lean in Tempo, with the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_langfuse.sdk.context import propagate_attributes
    from otel_langfuse.sdk.exporter import LangfuseSpanExporter
    from otel_langfuse.sdk.logs import LangfuseLogRecordProcessor
    from otel_langfuse.sdk.processor import LangfuseSpanProcessor
    from otel_langfuse.settings import Settings

__all__ = [
    "LangfuseLogRecordProcessor",
    "LangfuseSpanExporter",
    "LangfuseSpanProcessor",
    "Settings",
    "__version__",
    "propagate_attributes",
]

_HOMES = {
    "LangfuseLogRecordProcessor": "otel_langfuse.sdk.logs",
    "LangfuseSpanExporter": "otel_langfuse.sdk.exporter",
    "LangfuseSpanProcessor": "otel_langfuse.sdk.processor",
    "Settings": "otel_langfuse.settings",
    "propagate_attributes": "otel_langfuse.sdk.context",
}


def __getattr__(name: str) -> Any:
    """Loads public names on first use, so that importing one part does not pay for the others."""
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("otel-langfuse")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'otel_langfuse' has no attribute {name!r}")
