"""Media in content: base64 data URLs, found in the text of attributes and replaced there.

Rules:

- Text in, text out: whatever a dialect left as a data URL is found, in plain text as in JSON, and JSON stays JSON. A
  match covers whole escape sequences only (``\\/``, ``\\u002b``), of JSON in JSON too.
- Media up to the bound stay where they are, because Langfuse shows data URLs; so does all text around.
- Larger ones become Langfuse's reference token; where Langfuse does not get them, a note with type, size and hash takes
  the token's place. Neither holds a data URL, nor a character that JSON would escape, so that looking again finds none.
- Time is linear in the text, and nothing below the bound is decoded.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from otel_langfuse.langfuse.wire import AttributeValue

__all__ = ["CONTENT_FIELDS", "MARK", "METADATA", "Media", "extract", "present", "substitute"]

CONTENT_FIELDS = {
    "langfuse.observation.input": "input",
    "langfuse.observation.output": "output",
}
"""Attributes that hold content, with the field of an observation that Langfuse shows it in."""

METADATA = ("langfuse.observation.metadata.", "langfuse.trace.metadata.")
"""What the names of metadata begin with."""

MARK = ";base64,"
"""What every data URL with media in it holds."""

# ``data:`` must not begin inside of an escape: in ``\u00data:`` the first two letters belong to it. Every run has a
# bound, so that text made of beginnings costs no more than other text.
_HEAD = re.compile(
    r"data:(?<!\\u[0-9a-fA-F]{2}data:)(?<!\\u[0-9a-fA-F]{3}data:)"
    r"(?:([\w.+-]{1,127}+)\\{0,64}/((?:[\w.+-]|\\{1,64}u002[bB]){1,127}))?"
    r'(?:;[^\s;,"\\]{1,200}){0,4};base64,',
    re.ASCII,
)
_PAYLOAD = re.compile(
    r"(?:[A-Za-z0-9+/_-]++|\\++(?:/|u002[bBfF])|%2[bBfF])*+(?:={1,2}|(?:\\++u003[dD]){1,2}|(?:%3[dD]){1,2})?+"
)
_HEX = re.compile(r"%(2[bBfF]|3[dD])")
_JSON_HEX = re.compile(r"\\+u00(2[bBfF]|3[dD])")
_BACKSLASHES = re.compile(r"\\+")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")

# What libraries call a type, and the name under which Langfuse takes it.
_TYPES = {
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
    "audio/x-flac": "audio/flac",
}
_NO_TYPE = "text/plain"  # what a data URL without a type means (RFC 2397)


@dataclass(frozen=True, slots=True, eq=False)
class Media:
    """One image, sound or file in one field of an observation.

    Attributes:
        mime: Its type, in lower case.
        data: The decoded bytes.
        sha256: Their SHA-256 digest.
        field: ``input``, ``output`` or ``metadata``.
    """

    mime: str
    data: bytes = field(repr=False)
    sha256: bytes
    field: str

    @property
    def media_id(self) -> str:
        """Langfuse's id: the first 22 characters of the digest as base64url."""
        return b64encode(self.sha256, b"-_").decode("ascii")[:22]

    @property
    def note(self) -> str:
        """What stands in the text when the bytes do not."""
        return f"[{self.mime}, {len(self.data)} bytes, sha256 {self.sha256.hex()[:12]}…; not uploaded]"

    @property
    def token(self) -> str:
        """Langfuse's reference to these media."""
        return self.token_for(self.media_id)

    def token_for(self, media_id: str) -> str:
        """Langfuse's reference, should it keep them under another id."""
        return f"@@@langfuseMedia:type={self.mime}|id={media_id}|source=base64_data_uri@@@"


def extract(attributes: dict[str, AttributeValue], bound: int) -> tuple[dict[str, AttributeValue], tuple[Media, ...]]:
    """The attributes with tokens in place of all media of more than ``bound`` bytes, and these media, once per field.

    Content and metadata are looked at, everything else stays as it is. Without such media the given attributes come back.
    """
    large = [key for key, value in attributes.items() if isinstance(value, str) and len(value) > bound and MARK in value]
    if not large:
        return attributes, ()
    out = attributes.copy()
    found: dict[tuple[bytes, str, str], Media] = {}
    for key in large:
        value = attributes[key]
        if isinstance(value, str) and (place := _place(key)):
            out[key] = _replaced(value, bound, place, found)
    return out, tuple(found.values())


def present(attributes: Mapping[str, AttributeValue], media: Iterable[Media]) -> tuple[Media, ...]:
    """Those of ``media`` whose token is still there."""
    texts: dict[str, list[str]] = {}
    for key, value in attributes.items():
        if isinstance(value, str) and (place := _place(key)):
            texts.setdefault(place, []).append(value)
    return tuple(one for one in media if any(one.token in text for text in texts.get(one.field, ())))


def substitute(attributes: Mapping[str, AttributeValue], shown: Mapping[Media, str]) -> dict[str, AttributeValue]:
    """The attributes with other texts in place of the tokens of some media."""
    out = dict(attributes)
    for key, value in attributes.items():
        if isinstance(value, str) and (place := _place(key)):
            text = value
            for media, other in shown.items():
                if media.field == place:
                    text = text.replace(media.token, other)
            out[key] = text
    return out


def _place(key: str) -> str | None:
    """The field of an observation that an attribute is shown in."""
    return CONTENT_FIELDS.get(key) or ("metadata" if key.startswith(METADATA) else None)


def _replaced(text: str, bound: int, place: str, found: dict[tuple[bytes, str, str], Media]) -> str:
    """The text with tokens; what they stand for is added to ``found``."""
    pieces: list[str] = []
    done = at = 0
    quote = 0  # the next quotation mark; -1 once a payload did not end at it, for asking often would not take linear time
    while (head := _HEAD.search(text, at)) is not None:
        start = head.end()
        if 0 <= quote < start:
            quote = text.find('"', start)
        data, at = None, quote
        if (quote - start) * 3 // 4 > bound:
            data = _decoded_plain(text[start:quote])
            quote = -1 if data is None else quote
        if data is None:
            at = _end(text, start)
            data = _decoded(text, start, at, bound)
        if data is None or len(data) <= bound:
            continue
        mime = f"{head[1]}/{_BACKSLASHES.sub('', _JSON_HEX.sub(_character, head[2]))}".lower() if head[1] else _NO_TYPE
        mime = _TYPES.get(mime, mime)
        digest = hashlib.sha256(data).digest()
        media = found.setdefault((digest, mime, place), Media(mime, data, digest, place))
        pieces += (text[done : head.start()], media.token)
        done = at
    pieces.append(text[done:])
    return "".join(pieces)


def _end(text: str, start: int) -> int:
    """Where a payload ends. Another data URL may follow at once; its first letters are no payload."""
    payload = _PAYLOAD.match(text, start)
    assert payload is not None  # it matches nothing, too
    end = payload.end()
    if end - 4 >= start and text.startswith("data:", end - 4) and _HEAD.match(text, end - 4):
        return end - 4
    return end


def _decoded(text: str, start: int, end: int, bound: int) -> bytes | None:
    """The bytes of a payload, or ``None`` if they cannot be more than ``bound``."""
    if (end - start) * 3 // 4 <= bound:
        return None
    payload = text[start:end]
    if "\\" in payload:
        payload = _BACKSLASHES.sub("", _JSON_HEX.sub(_character, payload))
    if "%" in payload:
        payload = _HEX.sub(_character, payload)
    plain = payload.encode("ascii").translate(_URL_SAFE).rstrip(b"=")
    # What a limit on attributes has cut may end in the middle of a byte.
    plain = plain[: len(plain) - (len(plain) % 4 == 1)]
    return binascii.a2b_base64(plain + b"=" * (-len(plain) % 4))


def _decoded_plain(payload: str) -> bytes | None:
    """The bytes, if the text is base64 as it should be and nothing else: then no pattern need be matched."""
    try:
        return binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        return None


def _character(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))
