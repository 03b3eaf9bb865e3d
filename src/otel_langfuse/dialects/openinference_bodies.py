"""What OpenInference's ``input.value`` and ``output.value`` say of a model call beyond its flattened keys.

They hold the request and the response as the client library has them, so this is as far as those agree: OpenAI's shapes,
Mistral's envelope around them, and LangChain's result. What the flattened keys say holds; this fills what is absent.
"""

from __future__ import annotations

from dataclasses import replace

from otel_langfuse.dialects.chat import as_answers, as_content, as_tools
from otel_langfuse.dialects.langchain import response_metadata
from otel_langfuse.dialects.reading import as_text, load
from otel_langfuse.dialects.usage_objects import provider_usage
from otel_langfuse.model import Facts, Json, Value

__all__ = ["read_request", "read_response"]


def read_request(whole: Value, facts: Facts) -> None:
    """What only the request's body says: messages, tools and the model."""
    body = load(whole) if isinstance(whole, str) else None
    if not isinstance(body, dict):
        return
    if facts.input is None and isinstance(body.get("messages"), list):
        facts.input = as_content(body["messages"])  # type: ignore[arg-type]  # Json is a Value
    facts.request_model = facts.request_model or as_text(body.get("model"))  # type: ignore[arg-type]  # likewise
    inner = body.get("kwargs")
    tools = body.get("tools") or (inner.get("tools") if isinstance(inner, dict) else None)
    if isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools):
        facts.tools = as_tools(tools)  # type: ignore[arg-type]  # likewise


def read_response(whole: Value, facts: Facts) -> None:
    """What only the response's body says: its id, messages, details of its tokens, and behind LangChain the model."""
    if not isinstance(whole, str) or ('"id"' not in whole and '"usage"' not in whole):
        return
    body = load(whole)
    if isinstance(body, dict) and isinstance(body.get("data"), dict):
        body = body["data"]  # Mistral's streams
    if not isinstance(body, dict):
        return
    if "generations" in body:
        body = response_metadata(body)
        named = as_text(body.get("model_name")) or as_text(body.get("model"))  # type: ignore[arg-type]  # Json is a Value
        if named and facts.response_model in (None, facts.request_model):
            facts.response_model = named
    if (
        isinstance(body.get("id"), str)
        and facts.response_id is None
        and ("choices" in body or "model" in body or "model_name" in body)
    ):
        facts.response_id = str(body["id"])
    facts.output = facts.output or as_answers(body.get("choices"))
    _usage(body.get("usage"), facts)


def _usage(given: Json, facts: Facts) -> None:
    counted = provider_usage(given)
    if counted is None or counted.exclusive:  # the flattened keys count otherwise than Anthropic does
        return
    known = facts.usage
    if known is None:
        facts.usage = counted
    elif known.cache_read is None and known.reasoning is None:
        facts.usage = replace(known, cache_read=counted.cache_read, reasoning=counted.reasoning)
