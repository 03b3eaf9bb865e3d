"""Model parameters out of whole requests: instrumentations that record the request's body mix both."""

from __future__ import annotations

import re
from collections.abc import Mapping

from otel_langfuse.dialects.reading import load
from otel_langfuse.model import Json, Value

__all__ = ["is_repr", "request_parameters"]

# What a request holds besides parameters: content, identity, and what an answer echoes.
_NOT_PARAMETERS = frozenset(
    [
        "model",
        "model_name",
        "messages",
        "input",
        "inputText",
        "prompt",
        "contents",
        "system",
        "instructions",
        "tools",
        "functions",
        "function_call",
        "id",
        "object",
        "created",
        "created_at",
        "completed_at",
        "status",
        "output",
        "error",
        "usage",
        "metadata",
        "text",
        "_type",
        "stream",
        "stream_options",
        "incomplete_details",
        "previous_response_id",
        "conversation",
        "extra_body",
        "extra_headers",
        "extra_query",
        "background",
        "access_programs",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "billing",
        "reasoning_content",
        "system_instruction",
        "config",
        "ls_structured_output_format",
        "openai_api_base",
        "openai_api_key",
        "kwargs",
        "model_kwargs",
        "output_text",
        "max_retries",
        "timeout",
        "http_headers",
        "http_client",
    ]
)


_REPR = re.compile(r"<[\w.]+ object at 0x[0-9a-fA-F]+>")


def is_repr(value: object) -> bool:
    """Whether it is what Python prints for an object that has no words of its own: it says nothing."""
    return isinstance(value, str) and _REPR.fullmatch(value) is not None


def request_parameters(value: Value | Json) -> dict[str, Json] | None:
    """The parameters in a request's body, given as JSON text or a dict; ``None`` when it is no request."""
    given = load(value) if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        return None
    found: dict[str, Json] = {}
    for key, item in given.items():
        if key == "kwargs":
            found.update(request_parameters(item) or {})
        if key in _NOT_PARAMETERS or item is None or item in ({}, [], "") or is_repr(item):
            continue
        found[key] = item  # type: ignore[assignment]  # parsed JSON
    return found
