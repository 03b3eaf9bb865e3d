"""Dialects: one reader per instrumentation family, ordered, independent, merged field by field in one place."""

from otel_langfuse.dialects.merge import DIALECTS, Dialect, read

__all__ = ["DIALECTS", "Dialect", "read"]
