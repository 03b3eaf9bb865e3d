"""What a model cannot know of its values: keys that look swapped, files that are not there, names that Langfuse changes."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from otel_langfuse.pipeline.context import normalise_environment
from otel_langfuse.pipeline.mask_rules import BUILT_IN
from otel_langfuse.setting_values import InvalidValueError, read_headers
from otel_langfuse.sidecar.config.components import Component, Parts
from otel_langfuse.sidecar.config.document import Item
from otel_langfuse.sidecar.config.problems import Problems, Where, known_list, quoted, suggestion
from otel_langfuse.sidecar.config.project import exporter_fields, processor_fields, refusals
from otel_langfuse.sidecar.config.schema import (
    MIB,
    ClientTls,
    HttpProtocol,
    JournalExtension,
    LangfuseExporter,
    LangfuseProcessor,
    LangfuseQueue,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    Retry,
    ServerTls,
)

__all__ = ["check_values"]

_LEAST_TIMEOUT = 0.001
_UNKNOWN_TARGET = re.compile("unknown target ('.*'|\".*\")(?=;)", re.DOTALL)


def check_values(parts: Parts, problems: Problems) -> None:
    """Checks each component by itself."""
    for section in parts.components.values():
        for component in section.values():
            for where, model in _models(component):
                _check_model(where, model, problems)
    for component, exporter in parts.all_of(LangfuseExporter):
        _check_project(component.where, exporter, parts.items, problems)
    for component, processor in parts.all_of(LangfuseProcessor):
        _check_processor(component.where, processor, problems)


def _models(component: Component) -> Iterator[tuple[Where, BaseModel]]:
    """A component's model and all models in it, with their paths."""
    waiting: list[tuple[Where, BaseModel]] = [(component.where, component.model)]
    while waiting:
        where, model = waiting.pop()
        yield where, model
        waiting += ((((*where, name)), value) for name, value in model if isinstance(value, BaseModel))


def _check_model(where: Where, model: BaseModel, problems: Problems) -> None:
    for name, value in model:
        if name.endswith("_file") and value is not None and not _is_file(value):
            problems.error((*where, name), "there is no such file; give the path of a PEM file that can be read")
    match model:
        case ServerTls() | ClientTls():
            _check_pair(where, model, problems)
        case HttpProtocol():
            _check_paths(where, model, problems)
        case LangfuseQueue(queue_size=size) if size < MIB:
            problems.warn((*where, "queue_size"), f"{size} bytes hold hardly a request; sizes are in bytes here, like 256MiB")
        case Retry(initial_interval=first, max_interval=most) if most < first:
            problems.error((*where, "max_interval"), "is shorter than initial_interval; make it longer")
        case OtlpGrpcExporter() | OtlpHttpExporter():
            _check_headers(where, model.headers, problems)
            _check_timeout(where, model.timeout, problems)
            _check_usual_port(where, model, problems)
        case JournalExtension(directory=directory) if directory is not None and _is_file(directory):
            problems.error((*where, "directory"), "is a file; name a folder")
        case _:
            pass


def _is_file(path: str) -> bool:
    try:
        with Path(path).open("rb"):
            return True
    except (OSError, ValueError):
        return False


def _check_pair(where: Where, tls: ServerTls | ClientTls, problems: Problems) -> None:
    """A certificate and its key, tried as they will be used."""
    if (tls.cert_file is None) != (tls.key_file is None):
        missing = "key_file" if tls.key_file is None else "cert_file"
        problems.error((*where, missing), "is missing; a certificate and its key go together")
    authorities = tls.client_ca_file if isinstance(tls, ServerTls) else tls.ca_file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls.cert_file and tls.key_file and _is_file(tls.cert_file) and _is_file(tls.key_file):
        try:
            # A password, which nobody is there to type, is refused instead of asked for.
            context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: b"")
        except (OSError, ValueError):
            text = "the certificate and key_file cannot be used together; give PEM files that match, the key without password"
            problems.error((*where, "cert_file"), text)
    if authorities and _is_file(authorities):
        _check_authorities((*where, "client_ca_file" if isinstance(tls, ServerTls) else "ca_file"), authorities, problems)


def _check_authorities(where: Where, path: str, problems: Problems) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError):
        problems.error(where, "holds no certificate; give a PEM file with one or more")


def _check_paths(where: Where, protocol: HttpProtocol, problems: Problems) -> None:
    for name in ("traces_url_path", "logs_url_path"):
        path = getattr(protocol, name)
        if not path.startswith("/") or any(char in path for char in " ?#"):
            problems.error((*where, name), "is no path; write it like /v1/traces")
    if protocol.traces_url_path == protocol.logs_url_path:
        problems.error((*where, "logs_url_path"), "is the path of the traces as well; give each signal its own")


def _check_headers(where: Where, headers: dict[str, SecretStr], problems: Problems) -> None:
    for name, value in headers.items():
        try:
            read_headers({name: value.get_secret_value()})
        except InvalidValueError as error:
            problems.error((*where, "headers", name), f"is {error}; write one line of Latin-1 text")


def _check_timeout(where: Where, timeout: float, problems: Problems) -> None:
    if timeout < _LEAST_TIMEOUT:
        problems.error((*where, "timeout"), "is too short; it must be at least 1ms")


def _check_usual_port(where: Where, exporter: OtlpGrpcExporter | OtlpHttpExporter, problems: Problems) -> None:
    grpc = isinstance(exporter, OtlpGrpcExporter)
    endpoint = exporter.endpoint or ""
    port = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").port
    if port == (4318 if grpc else 4317):
        here, there = ("gRPC", "otlp_http") if grpc else ("HTTP", "otlp_grpc")
        text = f"port {port} is not the usual one of OTLP over {here}; if the other protocol answers there, use {there}"
        problems.warn((*where, "endpoint"), text)


def _check_project(where: Where, exporter: LangfuseExporter, items: dict[Where, Item], problems: Problems) -> None:
    public, secret = exporter.public_key, exporter.secret_key.get_secret_value()
    _check_headers(where, exporter.headers, problems)
    if public.startswith("sk-") or secret.startswith("pk-"):
        text = "public_key (pk-lf-…) and secret_key (sk-lf-…) look swapped; put each in its place"
        problems.error((*where, "public_key" if public.startswith("sk-") else "secret_key"), text)
        return
    for name, reason in refusals(exporter_fields(exporter)):
        place = {"ca_file": ("tls", "ca_file"), "queue_bytes": ("sending_queue", "queue_size")}.get(name, (name,))
        # Headers were named one by one, and a file that is not there was reported.
        if name not in ("headers", "ca_file"):
            problems.error((*where, *place), reason)
    given = items.get((*where, "base_url"))
    if given is not None and isinstance(given.value, str) and given.value.strip().rstrip("/") != exporter.base_url:
        problems.warn((*where, "base_url"), f"is an OTLP address; the site's own is expected, so {exporter.base_url} is used")


def _check_processor(where: Where, processor: LangfuseProcessor, problems: Problems) -> None:
    for name, reason in refusals(processor_fields(processor)):
        # A target that resembles none is not shown: it may be anything.
        near = "did you mean" in reason
        problems.error((*where, name), reason if near else _UNKNOWN_TARGET.sub("unknown target", reason))
    masks = {*BUILT_IN, "all"}
    for mask in sorted({mask.lower() for mask in processor.mask} - masks):
        near_mask = suggestion(mask, masks)
        shown = quoted(mask) + " " if near_mask else ""
        problems.error((*where, "mask"), f"{shown}is no built-in mask{near_mask}; known are: {known_list(masks)}")
    environment = processor.environment
    if environment is not None and normalise_environment(environment) != environment:
        text = "Langfuse would change the name; write 40 lower-case letters, digits, - and _ at most, not langfuse first"
        problems.error((*where, "environment"), text)
    if processor.settle > processor.window:
        problems.error((*where, "settle"), "is longer than window, which ends every wait; make it shorter")
    if processor.window_bytes < MIB:
        problems.warn((*where, "window_bytes"), "holds hardly a trace; sizes are in bytes here, like 128MiB")
