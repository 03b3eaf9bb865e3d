"""Model parameters out of whole requests: instrumentations that record the request's body mix both."""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.reading import load
from otel_langfuse.model import Json, Value

__all__ = ["request_parameters"]

# What a request holds besides parameters: content, identity, and what an answer echoes.
_NOT_PARAMETERS = frozenset(
    [
        "model",
        "model_name",
        "messages",
        "input",
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
        "model_kwargs",
        "output_text",
        "max_retries",
        "timeout",
        "http_headers",
        "http_client",
    ]
)


def request_parameters(value: Value | Json) -> dict[str, Json] | None:
    """The parameters in a request's body, given as JSON text or a dict; ``None`` when it is no request."""
    given = load(value) if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        return None
    found: dict[str, Json] = {}
    for key, item in given.items():
        if key in _NOT_PARAMETERS or item is None or item in ({}, [], ""):
            continue
        found[key] = item  # type: ignore[assignment]  # parsed JSON
    return found
