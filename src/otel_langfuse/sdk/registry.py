"""What is at work in this process: engines that take content, and exporters that a launcher has made."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_langfuse.sdk.engine import Engine
    from otel_langfuse.sdk.exporter import LangfuseSpanExporter

__all__ = ["engines", "exporters"]

engines: weakref.WeakSet[Engine] = weakref.WeakSet()
exporters: weakref.WeakSet[LangfuseSpanExporter] = weakref.WeakSet()
