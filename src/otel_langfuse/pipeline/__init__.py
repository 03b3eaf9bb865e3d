"""From spans as they come to rows as Langfuse should get them: join content, place in the tree, enrich.

Data goes one way: ``started`` and ``content`` are noted, ``ended`` reads the span, decides whether a row is due, and
hands rows to the sink. One thread owns a pipeline; nothing here does I/O.
"""

from otel_langfuse.pipeline.bridge import Pipeline
from otel_langfuse.pipeline.options import Options
from otel_langfuse.pipeline.row import Row
from otel_langfuse.pipeline.tree import SpanStart

__all__ = ["Options", "Pipeline", "Row", "SpanStart"]
