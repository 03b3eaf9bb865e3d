"""The way out to one Langfuse project: its parts made from settings (masker, delivery, media), and what rows do there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.langfuse.answers import Endpoint
from otel_langfuse.langfuse.copy import LangfuseCopy, TextMasker
from otel_langfuse.langfuse.custody import NOBODY, Custodian
from otel_langfuse.langfuse.delivery import Delivery
from otel_langfuse.langfuse.media_upload import Lost, MediaUploader
from otel_langfuse.langfuse.transport import HttpTransport, Transport
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.pipeline.row import Row
from otel_langfuse.settings import Settings

__all__ = ["Mask", "delivery_of", "finish", "masker_of", "media_of"]

logger = logging.getLogger(__name__)

Mask = Callable[[Any, str], Any]


class _FailClosed:
    """Stands in for masks that could not be set up: no text gets through."""

    def mask_text(self, text: str, field: str) -> str:
        return "[masking failed]" if text else text


def masker_of(settings: Settings, custom: Mask | None, counters: Counters) -> TextMasker | None:
    """The masker that settings and code ask for; one that lets nothing through if they cannot be understood."""
    if not settings.mask and custom is None:
        return None
    from otel_langfuse.pipeline.masking import Masker  # its rules take a while to compile

    try:
        return Masker.from_settings(settings.mask, custom, counters=counters)
    except ConfigError as error:
        logger.warning("otel-langfuse: %s. All content is replaced by [masking failed] until this is mended.", error)
        return _FailClosed()


def delivery_of(
    settings: Settings,
    counters: Counters,
    transport: Transport | None = None,
    *,
    custodian: Custodian = NOBODY,
    max_age: float = 600.0,
    queue_bytes: int | None = None,
    name: str = "langfuse",
) -> Delivery:
    """The delivery to the Langfuse project that the settings name; see `Delivery` for the other arguments."""
    public_key, secret_key = settings.public_key or "", settings.secret_key or ""
    if transport is None:
        transport = HttpTransport(
            settings.endpoint,
            public_key=public_key,
            secret_key=secret_key,
            ca_file=settings.ca_file,
            headers=settings.headers,
        )
    return Delivery(
        transport,
        counters=counters,
        endpoint=Endpoint.of(settings.endpoint, public_key=public_key, secret_key=secret_key),
        flush_at=settings.flush_at,
        flush_interval=settings.flush_interval,
        request_bytes=settings.request_bytes,
        queue_bytes=settings.queue_bytes if queue_bytes is None else queue_bytes,
        timeout=settings.timeout,
        compress=settings.gzip,
        custodian=custodian,
        max_age=max_age,
        name=name,
    )


def media_of(
    settings: Settings, counters: Counters, transport: Transport | None = None, *, lost: Lost | None = None
) -> MediaUploader:
    """The way of large media to Langfuse; a transport of the caller's own stands for a network that is not there."""
    if transport is not None:
        return MediaUploader(None, counters=counters, lost=lost)
    return MediaUploader.of(settings, counters, lost=lost)


def finish(
    rows: Iterable[Row],
    copy: LangfuseCopy,
    media: MediaUploader,
    delivery: Delivery,
    failed: Callable[[Row, BaseException], None],
) -> None:
    """Encodes rows and hands them to ``delivery``; those with media to upload go there when that is done.

    Args:
        rows: What the pipeline has placed.
        copy: Encodes.
        media: Uploads.
        delivery: Gets what is encoded, at once.
        failed: Told of a row that cannot be encoded, which costs no other.
    """
    spans: list[EncodedSpan] = []
    for row in rows:
        try:
            done = copy.finish(row)
            if isinstance(done, EncodedSpan):
                spans.append(done)
            else:
                media.submit(done, lambda span: delivery.offer([span]))
        except BaseException as error:  # noqa: BLE001  # one bad row must not take its trace with it
            failed(row, error)
    delivery.offer(spans)
