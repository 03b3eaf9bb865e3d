"""Zero code: what happens under the launcher ``opentelemetry-instrument`` before it loads instrumentations.

By then the configured providers exist, and the exporter named ``langfuse`` has been constructed. A complete processor
is added to the global tracer provider and a log record processor to the logger provider, by their public methods;
the exporter is told that it has nothing to do.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import PackageNotFoundError, version

from opentelemetry import trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider

from otel_langfuse.sdk import registry
from otel_langfuse.sdk.exporter import LangfuseSpanExporter
from otel_langfuse.sdk.logs import LangfuseLogRecordProcessor
from otel_langfuse.sdk.processor import LangfuseSpanProcessor
from otel_langfuse.settings import Settings

__all__ = ["instrument_openai", "take_over"]

logger = logging.getLogger(__name__)

_HOOK = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_INSTRUMENTATIONS = {
    "opentelemetry-instrumentation-openai": "opentelemetry.instrumentation.openai",
    "opentelemetry-instrumentation-genai-openai": "opentelemetry.instrumentation.genai.openai",
}


def take_over() -> None:
    """Replaces the registered exporter by a complete processor on the global providers."""
    exporter = next((found for found in registry.exporters if not found.superseded), None)
    provider = trace.get_tracer_provider()
    if exporter is None or not isinstance(provider, TracerProvider):
        return
    processor = _processor_for(exporter)
    exporter.superseded = True
    provider.add_span_processor(processor)
    if processor.engine is None or not processor.settings.configured:
        return
    logs = get_logger_provider()
    if isinstance(logs, LoggerProvider):
        logs.add_log_record_processor(LangfuseLogRecordProcessor())
    _default_hook(processor.settings)
    _warn_of_doubles()


def _processor_for(exporter: LangfuseSpanExporter) -> LangfuseSpanProcessor:
    """A processor with the exporter's own settings, which may have come by keyword."""
    return LangfuseSpanProcessor(exporter.settings, mask=exporter.mask)


def _default_hook(settings: Settings) -> None:
    """Chooses our completion hook unless the user chose one, or forbade content."""
    forbidden = os.environ.get(_CAPTURE, "").strip().lower() == "no_content"
    if _HOOK not in os.environ and not forbidden and settings.capture_content:
        os.environ[_HOOK] = "langfuse"


def installed_instrumentations() -> list[str]:
    """Names of the installed OpenAI instrumentations."""
    found = []
    for package in _INSTRUMENTATIONS:
        try:
            version(package)
        except PackageNotFoundError:
            continue
        found.append(package)
    return found


def _warn_of_doubles() -> None:
    found = installed_instrumentations()
    if len(found) > 1:
        logger.warning(
            "otel-langfuse: %s are both installed and both instrument the OpenAI SDK, so each call makes two spans. "
            "Remove one, for example: pip uninstall %s",
            " and ".join(found),
            found[0],
        )


def instrument_openai(settings: Settings) -> None:
    """Instruments the OpenAI SDK without the launcher, once (``LANGFUSE_OPENAI_INSTRUMENTATION=true``)."""
    from importlib import import_module

    found = installed_instrumentations()
    if not found:
        logger.warning(
            "otel-langfuse: LANGFUSE_OPENAI_INSTRUMENTATION is on, but no OpenAI instrumentation is installed: "
            "pip install 'otel-langfuse[openai]'"
        )
        return
    _warn_of_doubles()
    _default_hook(settings)
    instrumentor = import_module(_INSTRUMENTATIONS[found[-1]]).OpenAIInstrumentor()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()
