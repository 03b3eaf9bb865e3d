"""The second copy: every sampled span, GenAI or not, to an OTLP endpoint, from the same queue as the copy for Langfuse.

Rules:

- The worker encodes a span for this copy before it maps it: neither a failure of mapping, nor the sample rate, masks or
  filters for Langfuse touch this copy. Content leaves it in the same pass (``OTEL_LANGFUSE_FANOUT_CONTENT``).
- It has a delivery of its own: queue, thread, retries, counters. A backend that is down never delays the other copy.
- An error while encoding one span costs that span, and is counted.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.langfuse.delivery import Delivery
from otel_langfuse.langfuse.transport import HttpPost, Transport, plain_headers
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.otlp.answers import OtlpJudge
from otel_langfuse.otlp.content import Content
from otel_langfuse.otlp.encode import SpanEncoder
from otel_langfuse.otlp.endpoint import OtlpEndpoint
from otel_langfuse.settings import Settings
from otel_langfuse.views.fields import Read

__all__ = ["Fanout", "fanout_of"]

logger = logging.getLogger(__name__)

_BATCH = 64  # spans handed to delivery at a time
_FULL_REMEDY = "The queue in front of both copies was full; raise OTEL_LANGFUSE_QUEUE_BYTES."
_BUG_REMEDY = "This is a bug in otel-langfuse; please report it with the log line before this one."


def fanout_of(settings: Settings, transport: Transport | None = None) -> Fanout | None:
    """The second copy that the settings ask for; ``None``, after a warning where it was asked for, if there is none."""
    if settings.fanout != "otlp":
        return None
    exporters = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",")]
    doubled = [name for name in exporters if name.startswith("otlp")]
    if doubled:
        logger.warning(
            "otel-langfuse: OTEL_TRACES_EXPORTER names %s, which sends every span already: OTEL_LANGFUSE_FANOUT=otlp stays "
            "off, or each span would be there twice. Set OTEL_TRACES_EXPORTER=langfuse.",
            doubled[0],
        )
        return None
    endpoint = OtlpEndpoint.of(os.environ)
    return None if endpoint is None else Fanout(endpoint, settings, transport)


class Fanout:
    """Encodes and delivers. ``take`` and ``hand_over`` belong to the worker; the rest to any thread.

    Args:
        endpoint: Where spans go.
        settings: Bounds and intervals, and what content stays.
        transport: Replaces HTTP, for tests.

    Attributes:
        counters: Of this copy alone.
    """

    def __init__(self, endpoint: OtlpEndpoint, settings: Settings, transport: Transport | None = None) -> None:
        self.counters = Counters(name="otlp")
        self._endpoint = endpoint
        self._content = Content(settings.fanout_content)
        self._encoder = SpanEncoder(self._content)
        self._unfit = 0
        self._ending = False
        self._rows: list[EncodedSpan] = []
        self._may_log = OncePerInterval(60.0)
        self._delivery = Delivery(
            transport or _transport_of(endpoint),
            counters=self.counters,
            judge=OtlpJudge(endpoint.host, tuple(endpoint.headers.values())),
            flush_at=settings.flush_at,
            flush_interval=settings.flush_interval,
            request_bytes=settings.request_bytes,
            queue_bytes=settings.queue_bytes,
            timeout=endpoint.timeout,
            compress=endpoint.gzip,
            name="otlp",
        )

    def take(self, found: Read) -> None:
        """Encodes an ended span that has been read, and changes nothing of it; never raises."""
        try:
            encoded = self._encoder.encode_read(found)
            if encoded is not None:
                self._rows.append(encoded)
        except BaseException as error:  # noqa: BLE001  # this copy must not cost Langfuse its span
            self.failed(error)
        if len(self._rows) >= _BATCH:
            self.hand_over()

    def failed(self, error: BaseException) -> None:
        """Counts a span that could not be read or encoded."""
        if self._may_log("encode"):
            # The message of an error may quote content; its type cannot.
            logger.warning("otel-langfuse (otlp): %s while encoding a span", type(error).__name__)
        self.counters.drop("encoding_failed", 1, _BUG_REMEDY)

    def hand_over(self) -> None:
        """Gives delivery what was encoded."""
        if self._rows:
            rows, self._rows = self._rows, []
            self._delivery.offer(rows)
        unfit = self._encoder.unfit
        if unfit > self._unfit:
            self.counters.count("unfit_attributes", unfit - self._unfit)
            self._unfit = unfit

    def lose(self, spans: int) -> None:
        """Counts spans that were lost before the worker got to them."""
        self.counters.drop("shutdown" if self._ending else "queue_full", spans, "" if self._ending else _FULL_REMEDY)

    def end(self) -> None:
        """Says that no span is taken any more; what is queued may still come."""
        self._ending = True

    def hasten(self) -> None:
        """Sends what was handed over, and returns at once."""
        self._delivery.hasten()

    def force_flush(self, timeout: float) -> bool:
        """Whether everything handed over before was delivered or dropped within ``timeout`` seconds."""
        return self._delivery.force_flush(timeout)

    def close(self, timeout: float) -> None:
        """Begins what ``shutdown`` ends, and returns at once; ``timeout`` is for all of it."""
        self._delivery.close(timeout)

    def shutdown(self, timeout: float) -> bool:
        """Delivers the rest within ``timeout`` seconds, or what `close` left of its own; whether nothing was lost."""
        return self._delivery.shutdown(timeout)

    def start_empty(self) -> None:
        """Forgets the parent's spans, in the child of a fork; the delivery does so by itself."""
        self._rows = []
        self._encoder = SpanEncoder(self._content)  # the parent's worker may have been in the midst of a span
        self._unfit = 0

    def status(self) -> dict[str, Any]:
        """Counters, queue and last error; no content, no header values."""
        delivered = self._delivery.status()
        return {
            "endpoint": self._endpoint.url,
            "counters": dict(self.counters.counts),
            "dropped": dict(self.counters.drops),
            "queue_bytes": delivered["queue_bytes"],
            "last_error": delivered["last_error"],
            "last_success_at": delivered["last_success_at"],
        }


def _transport_of(endpoint: OtlpEndpoint) -> Transport:
    certificate = (endpoint.certificate, endpoint.key) if endpoint.certificate else None
    return HttpPost(endpoint.url, headers=plain_headers(endpoint.headers), ca_file=endpoint.ca_file, certificate=certificate)
