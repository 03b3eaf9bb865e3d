"""Langfuse's media API: three requests that bring one image, sound or file to where Langfuse keeps it.

Rules:

- ``POST /api/public/media`` tells Langfuse of the media and ties them to an observation. It answers where the bytes go,
  or that it has them; ``PUT`` brings them there; ``PATCH /api/public/media/{id}`` says how that went. Until then
  Langfuse does not show them.
- A request is made again once, after 5xx, 429 and a broken connection; not after a timeout, which has taken its time.
- The storage gets neither keys nor the user's headers: it is often another company's. Its address is signed, so it
  stands in no error. Redirects are not followed.
"""

from __future__ import annotations

import json
import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from otel_langfuse.errors import DeliveryError
from otel_langfuse.langfuse.media import Media
from otel_langfuse.langfuse.transport import Answer, TransportError, proxy_for, sdk_headers, uninstrumented

if TYPE_CHECKING:
    from otel_langfuse.langfuse.connections import Connections

__all__ = ["MediaApi", "MediaError", "Owner", "Stored"]

_PATH = "/api/public/media"
_ANSWER_LIMIT = 64 * 1024  # a signed address may be longer than what other answers are kept of
_ERROR_LIMIT = 1000  # characters of the storage's answer that Langfuse is told
_PAUSE = 0.2  # seconds before the second attempt
_HOSTS = 4
_ID = re.compile(r"[\w-]{1,128}", re.ASCII)

_REASONS = {
    400: "it takes no media of this type or size",
    401: "the keys are not known there",
    403: "the keys may not write, or ingestion is suspended",
    404: "it has no media API; OTEL_LANGFUSE_MEDIA_UPLOAD=false stops the attempts",
    413: "a proxy in front of it lets through less",
    422: "it takes no media of this type or size",
}


class MediaError(DeliveryError):
    """Media could not be stored; says why, without addresses, keys or content."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The observation that media belong to, by its ids in hex."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Stored:
    """Media that Langfuse has.

    Attributes:
        media_id: Its id for them.
        sent: Whether their bytes were sent now; otherwise it had them.
    """

    media_id: str
    sent: bool


class MediaApi:
    """Stores media in one Langfuse project. For one thread at a time; connections belong to one process.

    Args:
        base_url: The root of the Langfuse site.
        public_key: The project's public key.
        secret_key: The project's secret key.
        ca_file: PEM file of the certificate authorities to trust instead of the system's.
        headers: Further headers for Langfuse.
    """

    def __init__(
        self,
        base_url: str,
        *,
        public_key: str,
        secret_key: str,
        ca_file: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = base_url + _PATH
        self._headers = sdk_headers(public_key, secret_key, headers) | {"content-type": "application/json"}
        self._ca_file = ca_file
        self._pid = os.getpid()
        self._connections: dict[str | None, Connections] = {}

    def __repr__(self) -> str:
        return "MediaApi()"

    def store(self, media: Media, owner: Owner, timeout: Callable[[], float]) -> Stored:
        """Brings ``media`` to Langfuse, unless it has them, and ties them to their owner.

        Args:
            media: What to store.
            owner: Whose input, output or metadata they are in.
            timeout: Gives the seconds that the next request may take; raises when there are none left.

        Raises:
            MediaError: They are not there.
        """
        digest = b64encode(media.sha256).decode("ascii")
        upload = self._announce(media, owner, digest, timeout)
        if upload.url is None:
            return Stored(upload.media_id, sent=False)
        headers = {"content-type": media.mime}
        # Google's storage refuses what was not signed; Azure's wants to know the kind of blob.
        if "storage.googleapis.com" not in upload.url:
            headers |= {"x-amz-checksum-sha256": digest, "x-ms-blob-type": "BlockBlob"}
        began = time.monotonic()
        try:
            answer = self._twice("PUT", upload.url, media.data, headers, timeout)
        except TransportError as error:
            raise MediaError(f"the storage behind Langfuse gave no answer: {error}") from None
        took = time.monotonic() - began
        good = 200 <= answer.status < 300
        self._report(upload.media_id, answer, took, timeout, must=good)
        if not good:
            raise MediaError(f"the storage behind Langfuse answered {answer.status}", status=answer.status)
        return Stored(upload.media_id, sent=True)

    def close(self) -> None:
        """Closes idle connections; a later request opens new ones."""
        connections, self._connections = self._connections, {}
        if self._pid == os.getpid():
            for connection in connections.values():
                connection.close()

    def _announce(self, media: Media, owner: Owner, digest: str, timeout: Callable[[], float]) -> _Upload:
        body = {
            "traceId": owner.trace_id,
            "observationId": owner.span_id,
            "contentType": media.mime,
            "contentLength": len(media.data),
            "sha256Hash": digest,
            "field": media.field,
        }
        answer = self._langfuse("POST", self._url, body, timeout)
        try:
            read = json.loads(answer.body)
            media_id, url = read["mediaId"], read.get("uploadUrl")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise MediaError("Langfuse gave an answer that cannot be read") from None
        # Both come from outside: the id goes into JSON, the address to the HTTP client.
        usable = isinstance(media_id, str) and _ID.fullmatch(media_id)
        if not usable or not (url is None or (isinstance(url, str) and url.startswith(("https://", "http://")))):
            raise MediaError("Langfuse gave an answer that cannot be used")
        return _Upload(media_id, url)

    def _report(self, media_id: str, answer: Answer, took: float, timeout: Callable[[], float], *, must: bool) -> None:
        body: dict[str, object] = {
            "uploadedAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "uploadHttpStatus": answer.status,
            "uploadTimeMs": int(took * 1000),
        }
        if not must:
            body["uploadHttpError"] = answer.body.decode("utf-8", "replace")[:_ERROR_LIMIT]
        try:
            self._langfuse("PATCH", f"{self._url}/{media_id}", body, timeout)
        except MediaError:
            if must:
                raise

    def _langfuse(self, method: str, url: str, body: Mapping[str, object], timeout: Callable[[], float]) -> Answer:
        try:
            answer = self._twice(method, url, json.dumps(body).encode(), self._headers, timeout)
        except TransportError as error:
            raise MediaError(f"Langfuse gave no answer: {error}") from None
        if not 200 <= answer.status < 300:
            reason = _REASONS.get(answer.status, "")
            message = f"Langfuse answered {answer.status}{': ' if reason else ''}{reason}"
            raise MediaError(message, status=answer.status)
        return answer

    def _twice(self, method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: Callable[[], float]) -> Answer:
        """The answer to the first attempt, or to the second if the first one calls for it."""
        try:
            answer = self._once(method, url, body, headers, timeout())
            if answer.status < 500 and answer.status != 429:
                return answer
        except TransportError as error:
            if error.kind in ("timeout", "connect_timeout", "tls"):
                raise
        time.sleep(_PAUSE)
        return self._once(method, url, body, headers, timeout())

    def _once(self, method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Answer:
        with uninstrumented():
            return self._pool(url).request(
                method, url, body, headers, timeout=timeout, deadline=time.monotonic() + timeout, keep=_ANSWER_LIMIT
            )

    def _pool(self, url: str) -> Connections:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._connections = {}
        # Langfuse may be behind a proxy and its storage not, or the other way round.
        proxy = proxy_for(url)
        pool = self._connections.get(proxy)
        if pool is None:
            from otel_langfuse.langfuse.connections import Connections

            pool = self._connections[proxy] = Connections(proxy=proxy, ca_file=self._ca_file, hosts=_HOSTS)
        return pool


@dataclass(frozen=True, slots=True)
class _Upload:
    """Langfuse's answer: its id for the media, and where they go if it does not have them."""

    media_id: str
    url: str | None = field(repr=False)
