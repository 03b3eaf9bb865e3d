"""Errors, in one tree, so that a caller can catch at the level it cares about.

OtelLangfuseError
├── ConfigError            a setting, file or argument that cannot be used: names field and source
├── PayloadError           bytes that are no OTLP: says which input and what was wrong
└── DeliveryError          Langfuse or the network refused: says status, how many spans, what to do
    ├── TransportError     no answer came (`langfuse.transport`)
    └── MediaError         a media upload failed (`langfuse.media_api`)
"""

from __future__ import annotations

__all__ = ["ConfigError", "DeliveryError", "OtelLangfuseError", "PayloadError", "place_of"]


class OtelLangfuseError(Exception):
    """The root of every error that this package raises on purpose."""


class ConfigError(OtelLangfuseError):
    """A setting cannot be used.

    Attributes:
        field: The setting's name, as in the settings table.
        source: Where the value came from (an environment variable's name, ``keyword``, a file and path).
    """

    def __init__(self, message: str, *, field: str = "", source: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.source = source


class PayloadError(OtelLangfuseError):
    """Bytes that should be an OTLP export request and are not."""


class DeliveryError(OtelLangfuseError):
    """A request to Langfuse failed.

    Attributes:
        status: HTTP status, or ``None`` when no answer came.
        spans: Number of spans in the request.
        retry_after: Seconds that the server asked to wait, or ``None``.
        retryable: Whether the same bytes may be sent again.
        ambiguous: Whether Langfuse may have stored the request although no success was seen.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        spans: int = 0,
        retry_after: float | None = None,
        retryable: bool = False,
        ambiguous: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.spans = spans
        self.retry_after = retry_after
        self.retryable = retryable
        self.ambiguous = ambiguous


def place_of(error: BaseException) -> str:
    """File and line where an error came up. Its message may quote content; its type and place cannot."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return "an unknown place"
    file = place.tb_frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{file}:{place.tb_lineno}"
