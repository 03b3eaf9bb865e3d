"""Laws of compressed bodies: what was compressed comes back, however it was cut; what is damaged does not."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.receivers.bodies import ENCODINGS, TooLargeError, expand
from sidecar.receiving import COMPRESSIONS

LIMIT = 1 << 20
repeated = st.builds(lambda text, times: text * times, st.binary(max_size=50), st.integers(0, 4000))
texts = st.one_of(st.binary(max_size=300), repeated)
names = st.sampled_from([*COMPRESSIONS])


pytestmark = pytest.mark.usefixtures("compressor")


@given(texts, names)
def test_what_was_compressed_comes_back(text: bytes, name: str) -> None:
    assert expand(COMPRESSIONS[name](text), name, LIMIT) == text


@given(st.lists(texts, min_size=1, max_size=20), st.sampled_from(["gzip", "zstd"]))
def test_members_are_one_body(parts: list[bytes], name: str) -> None:
    assert expand(b"".join(map(COMPRESSIONS[name], parts)), name, LIMIT * 5) == b"".join(parts)


@given(texts, names, st.integers(0, 1000))
def test_the_limit_is_exact(text: bytes, name: str, more: int) -> None:
    packed = COMPRESSIONS[name](text)
    assert expand(packed, name, max(len(text), 1)) == text
    if text:
        with pytest.raises(TooLargeError):
            expand(packed, name, max(len(text) - 1 - more, 0))


@given(texts, names, st.data())
def test_a_part_of_it_is_cut_off(text: bytes, name: str, data: st.DataObject) -> None:
    packed = COMPRESSIONS[name](text)
    with pytest.raises(PayloadError):
        expand(packed[: data.draw(st.integers(0, len(packed) - 1))], name, LIMIT)


@given(texts, st.data())
def test_what_is_damaged_is_never_taken_for_something_else(text: bytes, data: st.DataObject) -> None:
    packed = bytearray(gzip.compress(text))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert expand(bytes(packed), "gzip", LIMIT) == text  # the head says when, and on which system
    except PayloadError:
        pass


@given(st.binary(max_size=200), st.sampled_from(ENCODINGS))
def test_any_bytes_are_a_body_or_an_error(body: bytes, name: str) -> None:
    try:
        expand(body, name, 100)
    except PayloadError:
        pass
