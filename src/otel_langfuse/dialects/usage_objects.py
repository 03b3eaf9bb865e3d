"""The usage object of a provider's answer, as OpenAI's and Anthropic's interfaces have it."""

from __future__ import annotations

from otel_langfuse.dialects.reading import as_integer
from otel_langfuse.model import Json, Usage

__all__ = ["provider_usage"]


def provider_usage(given: Json) -> Usage | None:
    """The counts in a usage object; ``None`` if it has none."""
    if not isinstance(given, dict):
        return None

    def count(*keys: str) -> int | None:
        return next((n for key in keys if (n := as_integer(given.get(key))) is not None), None)  # type: ignore[arg-type]

    def detail(side: str, key: str) -> int | None:
        for name in (f"{side}_tokens_details", "input_tokens_details" if side == "prompt" else "output_tokens_details"):
            inner = given.get(name)
            if isinstance(inner, dict) and (n := as_integer(inner.get(key))) is not None:  # type: ignore[arg-type]
                return n
        return None

    anthropic = "cache_read_input_tokens" in given or "cache_creation_input_tokens" in given
    found = Usage(
        input=count("prompt_tokens", "input_tokens"),
        output=count("completion_tokens", "output_tokens"),
        cache_read=detail("prompt", "cached_tokens") or count("cache_read_input_tokens"),
        cache_write=count("cache_creation_input_tokens"),
        reasoning=detail("completion", "reasoning_tokens"),
        audio_input=detail("prompt", "audio_tokens"),
        audio_output=detail("completion", "audio_tokens"),
        total=count("total_tokens"),
        exclusive=anthropic,
    )
    return found if found.input is not None or found.output is not None or found.total is not None else None
