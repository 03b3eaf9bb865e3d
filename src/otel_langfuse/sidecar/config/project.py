"""A Langfuse project of the configuration, as the settings that the in-process parts take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from otel_langfuse.errors import ConfigError
from otel_langfuse.settings import Settings
from otel_langfuse.sidecar.config.plan import LangfuseEnd
from otel_langfuse.sidecar.config.schema import LangfuseExporter, LangfuseProcessor

__all__ = ["exporter_fields", "processor_fields", "refusals", "settings_of"]

_OF_PROCESSOR = (
    *("environment", "release", "version", "sample_rate", "capture_content", "keep", "drop", "mask", "attribute_map"),
    *("trace_link", "join_timeout", "media_upload", "media_inline_bytes"),
)


def settings_of(end: LangfuseEnd) -> Settings:
    """The settings of a project; the process's environment variables have no part in them.

    Raises:
        ConfigError: A value cannot be used, which ``load`` has ruled out.
    """
    return Settings.resolve({}, strict=True, **exporter_fields(end.exporter), **processor_fields(end.processor))


def exporter_fields(exporter: LangfuseExporter) -> dict[str, object]:
    """What an exporter says of the settings, by their names."""
    return {
        "public_key": exporter.public_key,
        "secret_key": exporter.secret_key.get_secret_value(),
        "base_url": exporter.base_url,
        "export_path": exporter.export_path,
        "timeout": exporter.timeout,
        "compression": exporter.compression,
        "headers": {name: value.get_secret_value() for name, value in exporter.headers.items()},
        "ca_file": exporter.tls.ca_file,
        "flush_at": exporter.flush_at,
        "flush_interval": exporter.flush_interval,
        "request_bytes": exporter.request_bytes,
        "queue_bytes": exporter.sending_queue.queue_size,
    }


def processor_fields(processor: LangfuseProcessor) -> dict[str, object]:
    """What a processor says of the settings, by their names."""
    return {name: getattr(processor, name) for name in _OF_PROCESSOR}


def refusals(fields: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The name of each field that the settings refuse, with the reason; never with the value."""
    for name, value in fields.items():
        try:
            Settings.resolve({}, strict=True, **{name: value})
        except ConfigError as error:
            reason = f"{error}".removeprefix(f"{name} from keyword ")
            yield name, reason.partition(" (got ")[0].removesuffix(" (value not shown)")
