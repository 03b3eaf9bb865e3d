"""Token buckets: none negative, each token once, the total always the sum."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_langfuse.model import Usage
from otel_langfuse.pipeline.usage import buckets

counts = st.none() | st.integers(0, 10**7)
usages = st.builds(
    Usage,
    input=counts,
    output=counts,
    cache_read=counts,
    cache_write=counts,
    reasoning=counts,
    audio_input=counts,
    audio_output=counts,
    total=counts,
    exclusive=st.booleans(),
)


@given(usages)
def test_no_bucket_is_negative_and_the_total_is_the_sum(usage: Usage) -> None:
    found = buckets(usage)
    assert all(count >= 0 for count in found.values())
    if set(found) - {"total"}:
        assert found["total"] == sum(count for key, count in found.items() if key != "total")
    whole = (usage.input, usage.output, usage.total)
    parts = (usage.cache_read, usage.cache_write, usage.reasoning, usage.audio_input, usage.audio_output)
    assert bool(found) == (any(count is not None for count in whole) or any(parts))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_inclusive_and_exclusive_sources_give_the_same_buckets(
    fresh: int, cached: int, written: int, visible: int, reasoning: int
) -> None:
    """The conventions include cache and reasoning; Anthropic and Gemini do not. A given total tells them apart."""
    total = fresh + cached + written + visible + reasoning
    including = Usage(fresh + cached + written, visible + reasoning, cached, written, reasoning, total=total)
    excluding = Usage(fresh, visible, cached, written, reasoning, total=total)
    expected = {"input": fresh, "input_cached_tokens": cached, "input_cache_creation": written}
    expected |= {"output": visible, "output_reasoning_tokens": reasoning, "total": total}
    shown = {key: count for key, count in expected.items() if count or key in ("input", "output", "total")}
    assert buckets(including) == shown
    if (cached + written > fresh or cached + written == 0) and (reasoning > visible or reasoning == 0):
        assert buckets(excluding) == shown


@given(st.dictionaries(st.sampled_from(["input", "output", "input_cached_tokens", "total"]), st.integers(0, 10**6)))
def test_given_buckets_are_kept_and_only_a_missing_total_is_added(given_buckets: dict[str, int]) -> None:
    found = buckets(Usage(buckets=given_buckets))
    assert {key: count for key, count in found.items() if key != "total"} == {
        key: count for key, count in given_buckets.items() if key != "total"
    }
    if given_buckets:
        assert found["total"] >= given_buckets.get("total", 0)
