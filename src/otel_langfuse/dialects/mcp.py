"""Model Context Protocol: the Python SDK's own spans, and OpenLLMetry's instrumentation of it.

Source: semantic conventions for MCP; mcp 2 ``shared/otel.py``; opentelemetry-instrumentation-mcp. A tool call has a client
and a server span: the server's says what ran, the client's is transport. Handshakes, listings and the stream writer's spans are
noise.
"""

from __future__ import annotations

from otel_langfuse.dialects.chat import raw_content
from otel_langfuse.dialects.reading import Row, Table, as_text
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import Facts, ObservationType, SpanView

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "mcp"
HINTS = Hints(scopes=("mcp-python-sdk", "opentelemetry.instrumentation.mcp"), keys=("mcp.method.name",))
_CLIENT = 3  # trace.proto SpanKind

TABLE = Table(
    (
        Row("mcp.tool.name", "name"),
        Row("mcp.request.argument", "input", raw_content),
        Row("mcp.response.value", "output", raw_content),
    )
)


def read(view: SpanView) -> Facts | None:
    """The facts of an MCP span."""
    attributes = view.attributes
    scope = view.scope_name
    if "mcp.method.name" not in attributes and not scope.startswith(("mcp-python-sdk", "opentelemetry.instrumentation.mcp")):
        return None
    facts = Facts(dialect=NAME)
    if attributes.get("traceloop.span.kind") == "tool":
        return facts  # the conventions of OpenLLMetry say the rest
    TABLE.apply(attributes, facts)
    tool = as_text(attributes.get("gen_ai.tool.name")) or facts.name
    if attributes.get("mcp.method.name") == "tools/call" and tool and view.kind != _CLIENT:
        facts.type = ObservationType.TOOL
        facts.name = tool
    else:
        facts.noise = True
    return facts
