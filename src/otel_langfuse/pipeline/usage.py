"""Token counts as Langfuse's buckets: each token in one bucket, `total` always given.

Source: Langfuse rules section 10 and 11: the server adds up every key, and prices by key name. Sources differ in
whether input includes cache and output includes reasoning. The conventions include both, so that is assumed, unless
the numbers prove otherwise: a part larger than its whole, or a given total that only the exclusive reading explains.

Laws (tested as properties): no bucket is negative; ``total`` equals the sum of the other buckets, or stands alone.
"""

from __future__ import annotations

from itertools import product

from otel_langfuse.model import Usage

__all__ = ["buckets"]


def buckets(usage: Usage) -> dict[str, int]:
    """Exclusive buckets with ``total``; empty when nothing was counted."""
    if usage.buckets is not None:
        return _with_total({key: count for key, count in usage.buckets.items() if count >= 0})
    counted = (usage.cache_read, usage.cache_write, usage.reasoning, usage.audio_input, usage.audio_output)
    if usage.input is None and usage.output is None and not any(counted):
        return {"total": usage.total} if usage.total is not None else {}
    best = _reading(usage, cache_inside=not usage.exclusive, reasoning_inside=True)
    if usage.total is not None and sum(best.values()) != usage.total:
        for cache_inside, reasoning_inside in product((True, False), repeat=2):
            reading = _reading(usage, cache_inside=cache_inside, reasoning_inside=reasoning_inside)
            if sum(reading.values()) == usage.total:
                best = reading
                break
    if (
        usage.total is not None
        and usage.reasoning is None
        and (rest := usage.total - sum(best.values())) > 0
        and best.get("output")
    ):
        # Gemini's totals count thoughts that not every instrumentation names; nothing else is left out of both sides.
        best["output_reasoning_tokens"] = rest
    return _with_total(best)


def _reading(usage: Usage, *, cache_inside: bool, reasoning_inside: bool) -> dict[str, int]:
    given_input, given_output = usage.input or 0, usage.output or 0
    cached, written, reasoning = usage.cache_read or 0, usage.cache_write or 0, usage.reasoning or 0
    heard, spoken = usage.audio_input or 0, usage.audio_output or 0
    if cache_inside and cached + written <= given_input:
        given_input -= cached + written
    if heard <= given_input:
        given_input -= heard
    if reasoning_inside and reasoning <= given_output:
        given_output -= reasoning
    if spoken <= given_output:
        given_output -= spoken
    parts: dict[str, int] = {}
    if usage.input is not None:
        parts["input"] = given_input
    if usage.output is not None:
        parts["output"] = given_output
    if cached:
        parts["input_cached_tokens"] = cached
    if written:
        parts["input_cache_creation"] = written
    if heard:
        parts["input_audio_tokens"] = heard
    if reasoning:
        parts["output_reasoning_tokens"] = reasoning
    if spoken:
        parts["output_audio_tokens"] = spoken
    return parts


def _with_total(parts: dict[str, int]) -> dict[str, int]:
    """A given total that is larger than its parts stands (tokens of no named bucket); a smaller one is corrected."""
    given = parts.pop("total", None)
    if not parts:
        return {} if given is None else {"total": given}
    counted = sum(parts.values())
    parts["total"] = counted if given is None or given < counted else given
    return parts
