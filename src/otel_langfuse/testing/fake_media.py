"""The media API of Langfuse 4.16 and the storage behind it, for `FakeLangfuse`.

It checks as the server does: keys, known types, the hash and its form, and at the storage what a signed address covers.
Media count as kept once their bytes have come and the client has reported that.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from otel_langfuse.testing.http_server import Received

__all__ = ["MEDIA_PATH", "STORAGE_PATH", "MediaLink", "MediaShelf"]

MEDIA_PATH = "/api/public/media"
STORAGE_PATH = "/media-storage"

_TYPES = frozenset(
    """image/png image/jpeg image/jpg image/webp image/gif image/svg+xml image/tiff image/bmp image/avif image/heic
    audio/mpeg audio/mp3 audio/wav audio/ogg audio/oga audio/aac audio/mp4 audio/flac audio/opus audio/webm
    video/mp4 video/webm video/ogg video/mpeg video/quicktime video/x-msvideo video/x-matroska
    text/plain text/html text/css text/csv text/markdown text/x-python application/javascript text/x-typescript
    application/x-yaml application/pdf application/msword application/vnd.ms-excel application/zip application/json
    application/vnd.openxmlformats-officedocument.spreadsheetml.sheet application/xml application/octet-stream
    application/vnd.openxmlformats-officedocument.wordprocessingml.document application/rtf application/x-ndjson
    application/vnd.openxmlformats-officedocument.presentationml.presentation application/vnd.apache.parquet
    application/gzip application/x-tar application/x-7z-compressed""".split()
)
_DONE = (200, 201)

Answer = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class MediaLink:
    """Media tied to a field of an observation."""

    media_id: str
    trace_id: str
    observation_id: str
    field: str


@dataclass(slots=True)
class _Entry:
    mime: str
    length: int
    digest: str
    data: bytes | None = field(default=None, repr=False)
    status: int = 0


class MediaShelf:
    """What has been announced, sent and reported."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self.links: list[MediaLink] = []

    @property
    def kept(self) -> dict[str, bytes]:
        """Bytes by media id."""
        return {
            media_id: entry.data
            for media_id, entry in self._entries.items()
            if entry.data is not None and entry.status in _DONE
        }

    def answer(self, request: Received, root: str) -> Answer:
        """Status and body for a request; ``root`` is where addresses of the storage begin."""
        path = urlsplit(request.path).path
        if path.startswith(STORAGE_PATH):
            return self._put(request, path.rpartition("/")[2])
        try:
            body = json.loads(request.body)
        except ValueError:
            return 400, b'{"message":"Invalid JSON"}'
        if not isinstance(body, dict):
            return 400, b'{"message":"Invalid request data"}'
        if path == MEDIA_PATH and request.method == "POST":
            return self._announce(body, root)
        if path.startswith(f"{MEDIA_PATH}/") and request.method == "PATCH":
            return self._report(path.rpartition("/")[2], body)
        return 405, b'{"message":"Method not allowed"}'

    def _announce(self, body: dict[str, Any], root: str) -> Answer:
        mime, digest, trace = (body.get(name) for name in ("contentType", "sha256Hash", "traceId"))
        length, where = body.get("contentLength"), body.get("field")
        if not (
            isinstance(mime, str)
            and mime in _TYPES
            and isinstance(length, int)
            and length > 0
            and isinstance(digest, str)
            and len(digest) == 44
            and isinstance(where, str)
            and where in ("input", "output", "metadata")
            and isinstance(trace, str)
        ):
            return 400, b'{"message":"Invalid request data","error":"ZodError"}'
        media_id = digest.replace("+", "-").replace("/", "_")[:22]
        link = MediaLink(media_id, trace, body.get("observationId") or "", where)
        if link not in self.links:
            self.links.append(link)
        entry = self._entries.get(media_id)
        if entry is not None and entry.status in _DONE and entry.mime == mime:
            return 201, json.dumps({"mediaId": media_id, "uploadUrl": None}).encode()
        self._entries[media_id] = _Entry(mime, length, digest)
        url = f"{root}{STORAGE_PATH}/{media_id}?X-Amz-Signature=0123456789abcdef"
        return 201, json.dumps({"mediaId": media_id, "uploadUrl": url}).encode()

    def _put(self, request: Received, media_id: str) -> Answer:
        entry = self._entries.get(media_id)
        if entry is None or request.method != "PUT":
            return 403, b"<Error><Code>AccessDenied</Code></Error>"
        if "authorization" in request.headers:
            return 400, b"<Error><Message>Only one auth mechanism allowed</Message></Error>"
        if request.headers.get("content-type") != entry.mime or len(request.body) != entry.length:
            return 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
        digest = b64encode(hashlib.sha256(request.body).digest()).decode()
        if request.headers.get("x-amz-checksum-sha256", digest) != digest or digest != entry.digest:
            return 400, b"<Error><Code>BadDigest</Code></Error>"
        entry.data = request.body
        return 200, b""

    def _report(self, media_id: str, body: dict[str, Any]) -> Answer:
        entry = self._entries.get(media_id)
        if entry is None:
            return 404, b'{"message":"Media asset not found"}'
        status = body.get("uploadHttpStatus")
        if not isinstance(status, int) or not isinstance(body.get("uploadedAt"), str):
            return 400, b'{"message":"Invalid request data"}'
        entry.status = status
        return 200, b"{}"
