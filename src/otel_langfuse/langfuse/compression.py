"""A request's bytes in gzip form: isal where it is installed, and no long text compressed twice.

gzip sees no further back than 32 KiB. A long prompt stands on its generation and again on the entry row, too far apart for
that, and compressing is half of what such spans cost. So a text that comes again beyond that distance is compressed once,
apart from what stands around it, and its blocks are written at both places: a deflate stream is a row of blocks, and each
piece here ends at a byte's edge and refers to nothing before it (RFC 1951, section 3.2.3; "full flush" of zlib). Any
inflater reads it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

from otel_langfuse.langfuse.wire import EncodedSpan, assemble, pieces

__all__ = ["compress", "library", "pack"]

_GZIP = 31  # zlib's window bits for a gzip header
_RAW = -15  # and for blocks alone
_LEVEL = 1  # level 6 costs twice the time of zlib's for a tenth fewer bytes of JSON text; isal has no such levels
_WINDOW = 32_768
_PROBE = 64
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_END = b"\x03\x00"  # an empty last block
_TRAILER = struct.Struct("<II")

_Cut = tuple[int, int, tuple[bytes, int, bytes]]  # from, to, and which text it is
_chosen: Any = None


def compress(payload: bytes) -> bytes:
    """``payload`` in gzip form; the same bytes for the same payload."""
    return bytes(library().compress(payload, _LEVEL, _GZIP))


def pack(spans: Sequence[EncodedSpan]) -> bytes:
    """An ``ExportTraceServiceRequest`` with the spans, in gzip form; texts that spans say may come again are looked for."""
    if not any([span.texts for span in spans]):  # noqa: C419  # a list costs less than a generator
        return compress(assemble(spans))
    found = pieces(spans)
    cuts = _cuts(spans, found)
    payload = b"".join(found)
    return _in_pieces(payload, cuts) if cuts else compress(payload)


def _cuts(spans: Sequence[EncodedSpan], found: Sequence[bytes]) -> list[_Cut]:
    """Where texts stand that come again out of gzip's sight, in order, none in another."""
    owners = {id(span.span): span for span in spans if span.texts}
    places: dict[tuple[bytes, int, bytes], list[tuple[int, EncodedSpan, int]]] = {}
    position = 0
    for piece in found:
        span = owners.get(id(piece))
        if span is not None:
            for offset, size in span.texts:
                key = (span.trace_id, size, piece[offset : offset + _PROBE])
                places.setdefault(key, []).append((position + offset, span, offset))
        position += len(piece)
    cuts: list[_Cut] = []
    for key, stands in places.items():
        size = key[1]
        if len(stands) < 2 or stands[-1][0] - stands[0][0] <= _WINDOW:
            continue
        _, first, offset = stands[0]
        text = first.span[offset : offset + size]
        same = [start for start, span, offset in stands if span.span.startswith(text, offset)]
        if len(same) > 1:
            cuts += [(start, start + size, key) for start in same]
    cuts.sort()
    apart: list[_Cut] = []
    for cut in cuts:
        if not apart or cut[0] >= apart[-1][1]:
            apart.append(cut)
    return apart


def _in_pieces(payload: bytes, cuts: Sequence[_Cut]) -> bytes:
    view = memoryview(payload)
    out = [_HEADER]
    known: dict[tuple[bytes, int, bytes], bytes] = {}
    at = 0
    for start, end, key in cuts:
        if start > at:
            out.append(_blocks(view[at:start]))
        blocks = known.get(key)
        if blocks is None:
            blocks = known[key] = _blocks(view[start:end])
        out.append(blocks)
        at = end
    if at < len(payload):
        out.append(_blocks(view[at:]))
    out += (_END, _TRAILER.pack(library().crc32(payload), len(payload) & 0xFFFFFFFF))
    return b"".join(out)


def _blocks(data: memoryview) -> bytes:
    """Deflate blocks that stand alone and end at a byte's edge."""
    chosen = library()
    work = chosen.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
    return bytes(work.compress(data) + work.flush(chosen.Z_FULL_FLUSH))


def library() -> Any:
    """What compresses: zlib, or isal's module with the same functions, whose errors are its own ``error``."""
    global _chosen
    if _chosen is None:
        _chosen = _choose()
    return _chosen


def _choose() -> Any:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib  # a sixth of zlib's time at the same ratio, and a third of it to expand
