"""What is compressed in pieces reads back as what was put together, and long texts are found where they stand."""

from __future__ import annotations

import gzip
import json
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_langfuse.langfuse.compression import compress, pack
from otel_langfuse.langfuse.copy import LangfuseCopy
from otel_langfuse.langfuse.wire import EncodedSpan, assemble
from support import CHAT, convert_all, span

WORDS = [random.Random(number).randbytes(3).hex() for number in range(500)]


def prose(size: int, seed: int) -> bytes:
    chance = random.Random(seed)
    return " ".join(chance.choices(WORDS, k=size // 7 + 1)).encode()[:size]


TEXTS = [prose(size, size) for size in (64, 9_000, 40_000, 70_000)]


@st.composite
def encoded(draw: st.DrawFn) -> EncodedSpan:
    """A span of texts that others have too, at places that it knows; and of some at places that it does not."""
    trace = draw(st.sampled_from([b"a" * 16, b"b" * 16]))
    body = draw(st.binary(max_size=40))
    texts = []
    for text in draw(st.lists(st.sampled_from(TEXTS), max_size=3)):
        if draw(st.booleans()):
            texts.append((len(body), len(text)))
        body += text + draw(st.binary(max_size=10))
    scope = draw(st.sampled_from([b"", b"\x0a\x01s"]))
    return EncodedSpan(trace, b"12345678", b"", scope, body, texts=tuple(texts))


pytestmark = pytest.mark.usefixtures("compressor")


@settings(max_examples=60, deadline=None)
@given(st.lists(encoded(), max_size=6))
def test_pieces_read_back_as_the_whole(spans: list[EncodedSpan]) -> None:
    packed = pack(spans)
    assert gzip.decompress(packed) == assemble(spans)
    assert zlib.decompress(packed, 31) == assemble(spans)
    assert pack(spans) == packed


@given(st.binary(max_size=2_000))
def test_compressed_bytes_read_back(payload: bytes) -> None:
    assert gzip.decompress(compress(payload)) == payload


def test_texts_that_only_begin_alike_are_told_apart() -> None:
    one, other = prose(50_000, 1), prose(50_000, 1)[:-1] + b"!"
    spans = [EncodedSpan(b"a" * 16, b"1" * 8, b"", b"", text, texts=((0, len(text)),)) for text in (one, other, one)]
    assert gzip.decompress(pack(spans)) == assemble(spans)


@pytest.mark.parametrize("letter", ["x", "é", "\N{GRINNING FACE}"])
def test_a_message_that_the_entry_row_shows_too_is_found_in_both(letter: str) -> None:
    asked = json.dumps([{"role": "user", "parts": [{"type": "text", "content": letter * 20_000}]}])
    views = [
        span(2, 1, attributes={**CHAT, "gen_ai.input.messages": asked}, start=1_100, end=1_900),
        span(1, name="POST /ask", kind=2),
    ]
    rows = convert_all(views).rows
    copy = LangfuseCopy()
    done = [copy.finish(row) for row in rows]
    texts = []
    for one in done:
        assert isinstance(one, EncodedSpan)
        (place,) = one.texts
        texts.append(one.span[place[0] : place[0] + place[1]])
    assert texts[0] == texts[1]
    assert json.loads(texts[0]) == {"role": "user", "content": letter * 20_000}
