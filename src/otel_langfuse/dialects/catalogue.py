"""The table of all dialects, generated from the readers' own rows: which attribute feeds which field.

``otel-langfuse dialects`` prints it, and docs/dialects.md holds it; ``python -m otel_langfuse.dialects.catalogue`` too.
"""

from __future__ import annotations

from otel_langfuse.dialects.merge import DIALECTS

__all__ = ["TARGETS", "markdown"]

# Facts field -> what Langfuse shows.
TARGETS = {
    "-": "(not sent: says nothing of its own)",
    "type": "observation type",
    "name": "observation name",
    "operation": "metadata operation",
    "provider": "metadata provider",
    "request_model": "model, unless a response model is known",
    "response_model": "model",
    "response_id": "metadata response_id; joins doubled calls",
    "parameters": "model parameters",
    "input": "input",
    "output": "output",
    "system": "input, as the system message",
    "tools": "tools beside the input",
    "usage": "usage",
    "cost": "cost",
    "first_token_ns": "completion start time",
    "first_token_after": "completion start time, counted from the span's start",
    "level": "level",
    "status_message": "status message",
    "user": "user id",
    "session": "session id",
    "conversation": "metadata conversation_id; session id if nothing else is",
    "tags": "trace tags",
    "trace_name": "trace name",
    "workflow": "trace name, unless one was given",
    "trace_metadata": "trace metadata",
    "metadata": "observation metadata",
    "release": "release",
    "version": "version",
    "environment": "environment",
    "public": "trace public",
}


def _target(field: str) -> str:
    head, _, rest = field.partition(".")
    shown = TARGETS[head]
    return f"{shown} `{rest}`" if rest else shown


def markdown() -> str:
    """A Markdown section per dialect, in the order in which readers are asked."""
    lines = [
        "# Dialects",
        "",
        "Generated from the readers' tables. Readers are asked in this order; for each field the first that knows it wins.",
        "`*` stands for the rest of a key. What a table cannot say (messages in events or numbered keys, request bodies, first",
        "token events) is in the reader's own file. Attributes that no reader knows become observation metadata.",
        "",
    ]
    for dialect in DIALECTS:
        lines += [f"## {dialect.name}", "", "| attribute | Langfuse |", "|---|---|"]
        lines += [f"| `{row.key}` | {_target(row.field)} |" for row in dialect.table.rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
