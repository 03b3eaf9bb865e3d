"""The entry point that the launcher ``opentelemetry-instrument`` loads before any instrumentation.

It imports nothing that could fail at load time: an entry point that cannot be loaded would stop every other
instrumentation. The work is in `sdk.launch`.
"""

from __future__ import annotations

from otel_langfuse.sdk import registry

__all__ = ["pre_instrument"]


def pre_instrument() -> None:
    """Lets a complete processor take over from the exporter that the launcher made. Never raises."""
    try:
        from otel_langfuse.sdk.launch import take_over

        take_over()
    except Exception as error:  # noqa: BLE001  # border to the host: the other instrumentations must load
        registry.report_failed_start(error)
