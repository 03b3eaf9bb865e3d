"""What is at work in this process: engines that take content, and exporters that a launcher has made.

Imports next to nothing: whoever reports that the rest cannot be imported needs it.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_langfuse.sdk.engine import Engine
    from otel_langfuse.sdk.exporter import LangfuseSpanExporter

__all__ = ["engines", "exporters", "report_failed_start"]

logger = logging.getLogger(__name__)

engines: weakref.WeakSet[Engine] = weakref.WeakSet()
exporters: weakref.WeakSet[LangfuseSpanExporter] = weakref.WeakSet()
_reported: list[str] = []


def report_failed_start(error: Exception) -> None:
    """Says once that nothing will work, and leaves the exporters with nothing to do."""
    for exporter in exporters:
        exporter.superseded = True
    if not _reported:
        _reported.append(type(error).__name__)
        # The text of an import error names modules; any other error's might show a value.
        cause = f"{type(error).__name__}: {error}" if isinstance(error, ImportError) else type(error).__name__
        logger.warning("otel-langfuse could not start (%s); nothing is sent to Langfuse", cause)
