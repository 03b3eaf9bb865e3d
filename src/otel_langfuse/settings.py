"""The settings: one frozen dataclass, resolved once, read everywhere.

Rules:
    - Precedence: keyword, then the environment names of the field in their order (``LANGFUSE_*`` before ``OTEL_*``),
      then the default. ``None`` as a keyword and an empty variable both mean "not given".
    - In the library a value that cannot be used costs one warning and the next source in line is taken; with
      ``strict=True`` it raises ``ConfigError``, which names field and source.
    - Secrets never show: not in ``repr``, not in warnings, not in errors.

``python -m otel_langfuse.settings`` prints the table of all settings that the README shows.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from otel_langfuse.errors import ConfigError
from otel_langfuse.setting_values import (
    InvalidValueError,
    Noted,
    nearest,
    number_reader,
    read_base_url,
    read_compression,
    read_content_rule,
    read_count,
    read_fanout,
    read_file,
    read_flag,
    read_headers,
    read_link,
    read_list,
    read_names,
    read_path,
    read_rules,
    read_sdk_disabled,
    read_size,
    read_text,
)

__all__ = ["Settings"]

logger = logging.getLogger(__name__)

_DAY = 86_400.0


def _field(  # one row of the table; the caller's annotation gives the type
    default: Any,
    env: str,
    parse: Callable[[object], object],
    doc: str,
    *,
    secret: bool = False,
    text: str = "",
    parse_env: Mapping[str, Callable[[object], object]] | None = None,
    unreadable: tuple[object, str] | None = None,
) -> Any:
    metadata = {
        # What holds when a value was given that cannot be read, where the default would betray what was meant.
        "unreadable": unreadable,
        "env": tuple(env.split()),
        "parse": parse,
        "parse_env": parse_env or {},
        "doc": doc,
        "secret": secret,
        "default": text or _written(default),
    }
    if isinstance(default, dict):
        # A dict has no hash; leaving it out keeps the settings usable as a key.
        return dataclasses.field(default_factory=dict, hash=False, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _written(value: object) -> str:
    """A value as a person would write it in the environment."""
    if value is None or value in ((), {}):
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Everything that can be set.

    ``Settings.resolve()`` reads keywords and environment; the constructor itself checks nothing. Equal
    settings hash alike; ``repr`` masks secrets.
    """

    enabled: bool = _field(
        True,
        "LANGFUSE_TRACING_ENABLED LANGFUSE_ENABLED OTEL_SDK_DISABLED",
        read_flag,
        "Off: nothing is recorded for Langfuse and nothing is sent. `OTEL_SDK_DISABLED=true` means off.",
        parse_env={"OTEL_SDK_DISABLED": read_sdk_disabled},
    )
    public_key: str | None = _field(None, "LANGFUSE_PUBLIC_KEY", read_text, "The project's public key, `pk-lf-…`.")
    secret_key: str | None = _field(
        None, "LANGFUSE_SECRET_KEY", read_text, "The project's secret key, `sk-lf-…`. Never shown.", secret=True
    )
    base_url: str = _field(
        "https://cloud.langfuse.com",
        "LANGFUSE_BASE_URL LANGFUSE_HOST",
        read_base_url,
        "Where Langfuse runs, without a path of its API.",
        # The default is somebody else's server: prompts must not go there by mistake.
        unreadable=("", "nothing is sent to Langfuse until that is mended"),
    )
    export_path: str = _field(
        "/api/public/otel/v1/traces",
        "LANGFUSE_OTEL_TRACES_EXPORT_PATH",
        read_path,
        "Path of the OTLP endpoint below the base address.",
    )
    debug: bool = _field(False, "LANGFUSE_DEBUG", read_flag, "Log what happens at level DEBUG; never prompt content.")
    flush_interval: float = _field(
        1.0,
        "LANGFUSE_FLUSH_INTERVAL",
        number_reader(0.001, _DAY),
        "Longest time in seconds before finished spans are sent.",
    )
    flush_at: int = _field(512, "LANGFUSE_FLUSH_AT", read_count, "Number of finished spans that are sent without waiting.")
    timeout: float = _field(5.0, "LANGFUSE_TIMEOUT", number_reader(0.001, _DAY), "Time in seconds that one request may take.")
    sample_rate: float = _field(
        1.0, "LANGFUSE_SAMPLE_RATE", number_reader(0.0, 1.0), "Share of traces that Langfuse gets, chosen by trace id."
    )
    environment: str | None = _field(
        None,
        "LANGFUSE_TRACING_ENVIRONMENT",
        read_text,
        "Langfuse environment of spans that name none, e.g. `production`.",
    )
    release: str | None = _field(None, "LANGFUSE_RELEASE", read_text, "Release of the application.")
    version: str | None = _field(None, "OTEL_LANGFUSE_VERSION", read_text, "Version of the traced component.")
    openai_instrumentation: bool = _field(
        False,
        "LANGFUSE_OPENAI_INSTRUMENTATION",
        read_flag,
        "Instrument the OpenAI SDK when the span processor is made, without `opentelemetry-instrument`.",
    )
    ca_file: str | None = _field(
        None, "OTEL_LANGFUSE_CA_FILE SSL_CERT_FILE", read_file, "PEM file with the certificate authorities to trust."
    )
    headers: Mapping[str, str] = _field(
        {},
        "OTEL_LANGFUSE_HEADERS",
        read_headers,
        "More HTTP headers for Langfuse, `name=value,name2=value2`, percent-encoded. Values are never shown.",
        secret=True,
    )
    mask: tuple[str, ...] = _field(
        (),
        "OTEL_LANGFUSE_MASK",
        read_names,
        "Built-in masks: any of `email`, `card`, `phone`, `key`, `iban`, `ip`, or `all`.",
    )
    keep: tuple[str, ...] = _field(
        (),
        "OTEL_LANGFUSE_KEEP",
        read_list,
        "Globs on instrumentation scope or span name: spans that Langfuse gets as well.",
    )
    drop: tuple[str, ...] = _field(
        (),
        "OTEL_LANGFUSE_DROP",
        read_list,
        "Globs on instrumentation scope or span name: spans that Langfuse does not get.",
    )
    attribute_map: Mapping[str, str] = _field(
        {},
        "OTEL_LANGFUSE_ATTRIBUTE_MAP",
        read_rules,
        "Which span attribute feeds which field, `persona=user.id,tenant=metadata.tenant`. Fields: `user.id`, `session.id`, "
        "`trace.name`, `tags`, `release`, `version`, `environment`, `metadata.<name>`, `observation.metadata.<name>`.",
    )
    media_upload: bool = _field(
        True,
        "OTEL_LANGFUSE_MEDIA_UPLOAD",
        read_flag,
        "Upload media above the size bound to Langfuse. Off: such media become a note with type, size and hash.",
    )
    media_inline_bytes: int = _field(
        65_536,
        "OTEL_LANGFUSE_MEDIA_INLINE_BYTES",
        read_size,
        "Images, audio and files up to this size stay in the span as data URLs.",
        text="64KiB",
    )
    capture_content: bool = _field(
        True,
        "OTEL_LANGFUSE_CAPTURE_CONTENT",
        read_flag,
        "Off: no prompts, answers or tool values reach Langfuse.",
        unreadable=(False, "content is left out until that is mended"),
    )
    trace_link: str | None = _field(
        None,
        "OTEL_LANGFUSE_TRACE_LINK",
        read_link,
        "Link from Langfuse back to the trace store; a template that contains `{trace_id}`.",
    )
    set_trace_url: bool = _field(
        True,
        "OTEL_LANGFUSE_SET_TRACE_URL",
        read_flag,
        "Set `langfuse.trace.url` on the given spans, as the link to Langfuse.",
    )
    baggage: bool = _field(False, "OTEL_LANGFUSE_BAGGAGE", read_flag, "Read user, session and tags from W3C baggage as well.")
    queue_bytes: int = _field(
        256 << 20,
        "OTEL_LANGFUSE_QUEUE_BYTES",
        read_size,
        "Bound in bytes of each queue: spans to be mapped, and requests to be sent, for each destination.",
        text="256MiB",
    )
    request_bytes: int = _field(
        4 << 20, "OTEL_LANGFUSE_REQUEST_BYTES", read_size, "Most bytes in one request before compression.", text="4MiB"
    )
    join_timeout: float = _field(
        10.0,
        "OTEL_LANGFUSE_JOIN_TIMEOUT",
        number_reader(0.0, _DAY),
        "Longest time in seconds that a generation waits for the other span of the same call.",
    )
    shutdown_timeout: float = _field(
        5.0,
        "OTEL_LANGFUSE_SHUTDOWN_TIMEOUT",
        number_reader(0.0, _DAY),
        "Time in seconds to send the rest when the process ends.",
    )
    compression: str = _field(
        "auto",
        "OTEL_LANGFUSE_COMPRESSION",
        read_compression,
        "`gzip`, `none`, or `auto`: gzip except to this machine itself.",
    )
    fanout: str | None = _field(
        None,
        "OTEL_LANGFUSE_FANOUT",
        read_fanout,
        "`otlp`: every span goes to an OTLP endpoint as well, from the same queue; `OTEL_EXPORTER_OTLP_…` says where.",
        unreadable=("none", "no second copy is sent"),
    )
    fanout_content: str = _field(
        "keep",
        "OTEL_LANGFUSE_FANOUT_CONTENT",
        read_content_rule,
        "Prompts, answers and tool values in that copy: `keep`, `drop`, or `truncate:N` bytes of each text.",
        # Who sets this wants less than everything to be there.
        unreadable=("drop", "content is left out of the OTLP copy until that is mended"),
    )

    @classmethod
    def resolve(cls, environ: Mapping[str, str] | None = None, *, strict: bool = False, **keywords: object) -> Settings:
        """The settings from keywords, environment and defaults, in this order.

        Args:
            environ: The environment; ``os.environ`` when ``None``.
            strict: Raise instead of warn and fall back.
            **keywords: Settings by field name; ``None`` means "not given". Strings are read as in the environment.

        Raises:
            TypeError: A keyword is no setting.
            ConfigError: ``strict`` is set and a value cannot be used.
        """
        environ = os.environ if environ is None else environ
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in keywords:
            if name not in fields:
                raise TypeError(f"{name!r} is no setting{nearest(name, fields)}")
        settings = cls(**{name: _resolve(field, keywords.get(name), environ, strict=strict) for name, field in fields.items()})
        if (settings.public_key or "").startswith("sk-lf-") or (settings.secret_key or "").startswith("pk-lf-"):
            logger.warning(
                "otel-langfuse: LANGFUSE_PUBLIC_KEY (pk-lf-…) and LANGFUSE_SECRET_KEY (sk-lf-…) look swapped;"
                " Langfuse will refuse them."
            )
        return settings

    @property
    def endpoint(self) -> str:
        """Where spans go."""
        return self.base_url + self.export_path

    @property
    def host(self) -> str:
        """The base address's host, with its port if one is given."""
        return urlsplit(self.base_url).netloc

    @property
    def gzip(self) -> bool:
        """Whether requests are compressed; on this machine itself that costs more than it saves."""
        host = urlsplit(self.base_url).hostname or ""
        loopback = host in {"localhost", "::1"} or host.endswith(".localhost") or host.startswith("127.")
        return self.compression == "gzip" or (self.compression == "auto" and not loopback)

    @property
    def configured(self) -> bool:
        """Whether spans can be sent."""
        return self.enabled and bool(self.public_key) and bool(self.secret_key) and bool(self.base_url)

    @property
    def problem(self) -> str | None:
        """Why nothing is sent although it should be, in one sentence; ``None`` when all is well or switched off."""
        if not self.enabled or self.configured or not self.base_url:
            return None  # an address that cannot be read was said to be one
        if self.public_key:
            state = "LANGFUSE_PUBLIC_KEY is set but LANGFUSE_SECRET_KEY is not"
        elif self.secret_key:
            state = "LANGFUSE_SECRET_KEY is set but LANGFUSE_PUBLIC_KEY is not"
        else:
            state = "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not set"
        return f"{state}: nothing is sent to Langfuse. Set both, or LANGFUSE_TRACING_ENABLED=false to silence this."

    def __repr__(self) -> str:
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                value = dict.fromkeys(value, "***")
            # A secret key in the wrong place is still a secret.
            elif value and (field.metadata["secret"] or str(value).startswith("sk-")):
                value = "***"
            shown.append(f"{field.name}={value!r}")
        return f"Settings({', '.join(shown)})"

    @staticmethod
    def table() -> str:
        """The Markdown table of all settings."""
        rows = ["| Setting | Environment | Default | Meaning |", "| --- | --- | --- | --- |"]
        for field in dataclasses.fields(Settings):
            names = ", ".join(f"`{name}`" for name in field.metadata["env"])
            default = field.metadata["default"]
            default = default if default == "not set" else f"`{default}`"
            rows.append(f"| `{field.name}` | {names} | {default} | {field.metadata['doc'].replace('|', chr(92) + '|')} |")
        return "\n".join(rows)


def _resolve(field: dataclasses.Field[Any], keyword: object, environ: Mapping[str, str], *, strict: bool) -> Any:
    """The value of one field from its first usable source; one warning for all sources that were not usable."""
    meta = field.metadata
    sources: list[tuple[str, object]] = [("keyword", keyword)]
    sources += [(name, environ.get(name)) for name in meta["env"]]
    value: object = None
    used, refused = "", []
    for source, raw in sources:
        if raw is None or (isinstance(raw, str) and not raw.strip()):
            continue
        try:
            value = meta["parse_env"].get(source, meta["parse"])(raw)
        except InvalidValueError as reason:
            complaint = f"{field.name} from {source} is {reason} ({_given(raw, secret=meta['secret'])})"
            if strict:
                raise ConfigError(complaint, field=field.name, source=source) from None
            refused.append(complaint)
            continue
        if isinstance(value, Noted):
            logger.warning("otel-langfuse: %s from %s %s.", field.name, source, value.note)
            value = value.value
        if value is not None:
            used = source
            break
    if value is None and refused and meta["unreadable"] is not None:
        value, consequence = meta["unreadable"]
    elif value is None:
        value = field.default if field.default is not dataclasses.MISSING else {}
        consequence = f"using the default ({meta['default']})"
    else:
        consequence = f"using {'its value' if meta['secret'] else _written(value)} from {used}"
    if refused:
        logger.warning("otel-langfuse: %s; %s.", "; ".join(refused), consequence)
    return value


def _given(raw: object, *, secret: bool) -> str:
    """What was given, as far as it may be shown."""
    # An address may hold a password, and a key in the wrong variable is still a key.
    if secret or not isinstance(raw, str) or "@" in raw or "-lf-" in raw:
        return "value not shown"
    return f"got {raw[:60]!r}"


if __name__ == "__main__":
    sys.stdout.write(Settings.table() + "\n")
