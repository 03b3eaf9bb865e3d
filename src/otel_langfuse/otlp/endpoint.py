"""Where the OTLP copy goes: OpenTelemetry's own exporter variables, read as its HTTP exporter reads them.

Rules:

- What is set for traces (``OTEL_EXPORTER_OTLP_TRACES_…``) wins over what is set for all signals.
- The protocol is http/protobuf. Where the variables ask for gRPC, or name its port without asking for HTTP, nothing is sent
  and one warning says what to set: a guessed address could be somebody else's. Port 4318 is HTTP's by registration and
  outweighs the word grpc, which the launcher writes into the environment when nobody did.
- Header values are secrets: no warning and no ``repr`` holds one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from otel_langfuse.setting_values import InvalidValueError, number_reader, read_file, read_headers, read_text

__all__ = ["OtlpEndpoint"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_DEFAULT = "http://localhost:4318"
_PATH = "/v1/traces"
_GRPC_PORT, _HTTP_PORT = 4317, 4318
_read_seconds = number_reader(0.001, 86_400.0)


def _read_file(raw: object) -> str | None:
    return read_file(raw)


@dataclass(frozen=True, slots=True)
class OtlpEndpoint:
    """An OTLP endpoint for traces over HTTP.

    Attributes:
        url: The full URL.
        headers: Further headers, names in lower case.
        timeout: Seconds for one request.
        gzip: Whether requests are compressed.
        ca_file: PEM file of the authorities to trust instead of the system's.
        certificate: PEM file with a client certificate.
        key: PEM file with its key.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 10.0
    gzip: bool = False
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None

    @property
    def host(self) -> str:
        """Host, with its port if one is given."""
        return urlsplit(self.url).netloc

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> OtlpEndpoint | None:
        """The endpoint that the environment names; ``None``, after a warning, if none can be used."""
        found = _Variables(environ)
        url = _url_of(found)
        if url is None:
            return None
        return cls(
            url=url,
            headers=_headers_of(found),
            timeout=found.read("TIMEOUT", _read_seconds, 10.0),
            gzip=_gzip_of(found),
            ca_file=found.read("CERTIFICATE", _read_file, None),
            certificate=found.read("CLIENT_CERTIFICATE", _read_file, None),
            key=found.read("CLIENT_KEY", _read_file, None),
        )


class _Variables:
    """``OTEL_EXPORTER_OTLP_TRACES_<NAME>``, else ``OTEL_EXPORTER_OTLP_<NAME>``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def find(self, name: str) -> tuple[str, str]:
        """The value and the variable that it came from; empty if neither is set."""
        for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
            value = self._environ.get(variable, "").strip()
            if value:
                return value, variable
        return "", ""

    def read(self, name: str, reader: Callable[[object], _T], default: _T) -> _T:
        """The value in its own type; the default, after a warning, if it cannot be read."""
        raw, variable = self.find(name)
        if not raw:
            return default
        try:
            return reader(raw)
        except InvalidValueError as reason:
            logger.warning("otel-langfuse: %s is %s; for the OTLP copy it counts as not set.", variable, reason)
            return default


def _url_of(found: _Variables) -> str | None:
    raw, variable = found.find("ENDPOINT")
    url = raw or _DEFAULT
    if not variable.startswith("OTEL_EXPORTER_OTLP_TRACES_"):
        url = url.rstrip("/") + _PATH
    protocol, from_ = found.find("PROTOCOL")
    try:
        read_text(url)
        parts = urlsplit(url)
        port = parts.port
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except (ValueError, InvalidValueError):
        usable, port, parts = False, None, urlsplit("")
    if usable and port != _HTTP_PORT and (protocol == "grpc" or (port == _GRPC_PORT and not protocol)):
        why = f"{from_} is grpc" if protocol == "grpc" else f"{variable} names port 4317, which is gRPC's"
        remedy = (
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf and the backend's HTTP port in OTEL_EXPORTER_OTLP_ENDPOINT,"
            " usually 4318"
        )
        _refuse(f"{why}, and the copy goes by http/protobuf", remedy)
        return None
    if not usable:
        _refuse(f"{variable} is not an http:// or https:// URL without user name", "it to one, such as http://tempo:4318")
        return None
    if protocol not in ("", "http/protobuf", "grpc"):
        logger.warning("otel-langfuse: %s asks for a protocol that is not spoken; the OTLP copy goes by http/protobuf.", from_)
    return url


def _refuse(why: str, remedy: str) -> None:
    logger.warning("otel-langfuse: %s: nothing is sent to OTLP. Set %s.", why, remedy)


def _headers_of(found: _Variables) -> Mapping[str, str]:
    none: dict[str, str] = {}
    return {name.lower(): value for name, value in found.read("HEADERS", read_headers, none).items()}


def _gzip_of(found: _Variables) -> bool:
    word, variable = found.find("COMPRESSION")
    if word.lower() not in ("", "gzip", "none"):
        logger.warning("otel-langfuse: %s is neither gzip nor none; the OTLP copy is sent with gzip.", variable)
    return word.lower() not in ("", "none")
