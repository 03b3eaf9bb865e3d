"""From a configured end to a destination."""

from __future__ import annotations

import random as random_module
import re
import threading
import time
from collections.abc import Callable
from importlib import metadata

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.setting_values import InvalidValueError, read_headers
from otel_langfuse.sidecar.config.plan import OtlpEnd
from otel_langfuse.sidecar.config.schema import DebugExporter, OtlpGrpcExporter, OtlpHttpExporter, Queue, Retry
from otel_langfuse.sidecar.destinations.debug import DebugSender
from otel_langfuse.sidecar.destinations.grpc_sender import GrpcSender, address_of
from otel_langfuse.sidecar.destinations.http_sender import HttpSender
from otel_langfuse.sidecar.destinations.merging import MOST
from otel_langfuse.sidecar.destinations.otlp import OtlpDestination
from otel_langfuse.sidecar.destinations.policy import Policy
from otel_langfuse.sidecar.destinations.sender import Sender
from otel_langfuse.sidecar.destinations.verdicts import Target
from otel_langfuse.sidecar.entry import Destination, Journal, Signal

__all__ = ["destination_of"]

_PATHS = {Signal.TRACES: "/v1/traces", Signal.LOGS: "/v1/logs"}
_METADATA_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+")
_NO_TIMEOUT = 3600.0  # what 0 comes to: even then a request must end some day


def destination_of(
    end: OtlpEnd,
    journal: Journal,
    *,
    counters: Counters | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    wait: Callable[[threading.Condition, float | None], bool] = threading.Condition.wait,
    random: Callable[[], float] = random_module.random,
) -> Destination:
    """The destination that ``end`` describes, not started.

    Args:
        end: The exporter and what comes to it.
        journal: Holds the entries.
        counters: Its own counters, if somebody else reads them too.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch.
        wait: Waits on a condition; a fake clock brings its own.
        random: Uniform in [0, 1), for jitter.

    Raises:
        ConfigError: A header cannot be sent, or a signal has no endpoint.
    """
    exporter = end.exporter
    if isinstance(exporter, DebugExporter):
        sender: Sender = DebugSender(end.name, exporter.verbosity)
        queue, retry, policy, timeout = Queue(num_consumers=1), Retry(), Policy(), _NO_TIMEOUT
    else:
        queue, retry = exporter.sending_queue, exporter.retry_on_failure
        policy = Policy(percentage=exporter.sampling.percentage, content=exporter.content)
        timeout = exporter.timeout or _NO_TIMEOUT
        headers = _headers(end.name, exporter)
        if isinstance(exporter, OtlpGrpcExporter):
            sender = _grpc(end.name, exporter, headers, timeout)
        else:
            sender = _http(end, exporter, headers, wall_clock)
    return OtlpDestination(
        end.name,
        end.signals,
        sender,
        journal,
        queue=queue,
        retry=retry,
        policy=policy,
        # Where nothing is sent again, what fails costs no more than itself.
        merge_bytes=0 if isinstance(exporter, DebugExporter) or not retry.enabled else MOST,
        timeout=timeout,
        # A line that is written again after a crash needs no note on disk before it.
        notes_attempts=not isinstance(exporter, DebugExporter),
        counters=counters,
        clock=clock,
        wall_clock=wall_clock,
        wait=wait,
        random=random,
    )


def _grpc(name: str, exporter: OtlpGrpcExporter, headers: dict[str, str], timeout: float) -> GrpcSender:
    bad = [header for header in headers if not _METADATA_NAME.fullmatch(header.lower())]
    if bad:
        raise _header_error(name, f"the name {bad[0]!r} cannot be used over gRPC")
    if any(not (value.isascii() and value.isprintable()) for key, value in headers.items() if not key.lower().endswith("-bin")):
        raise _header_error(name, "a value is not plain ASCII text")
    target = Target(name, address_of(exporter.endpoint, exporter.tls)[0], tuple(headers.values()))
    return GrpcSender(
        target,
        exporter.endpoint,
        tls=exporter.tls,
        headers=headers,
        compressed=exporter.compression == "gzip",
        timeout=timeout,
        user_agent=_agent(),
    )


def _http(end: OtlpEnd, exporter: OtlpHttpExporter, headers: dict[str, str], wall_clock: Callable[[], float]) -> HttpSender:
    given = {Signal.TRACES: exporter.traces_endpoint, Signal.LOGS: exporter.logs_endpoint}
    urls: dict[Signal, str] = {}
    for signal in end.signals:
        url = given[signal] or (exporter.endpoint.rstrip("/") + _PATHS[signal] if exporter.endpoint else None)
        if url is None:
            raise ConfigError(
                f"exporters.{end.name}: {signal} come here, but there is neither endpoint nor {signal}_endpoint",
                field=f"exporters.{end.name}.{signal}_endpoint",
            )
        urls[signal] = url
    return HttpSender(
        Target(end.name, "", tuple(headers.values())),
        urls,
        headers=headers,
        tls=exporter.tls,
        compressed=exporter.compression == "gzip",
        connections=exporter.sending_queue.num_consumers,
        user_agent=_agent(),
        wall_clock=wall_clock,
    )


def _headers(name: str, exporter: OtlpGrpcExporter | OtlpHttpExporter) -> dict[str, str]:
    try:
        return read_headers({key: value.get_secret_value() for key, value in exporter.headers.items()})
    except InvalidValueError as error:
        raise _header_error(name, f"{error}") from None


def _header_error(name: str, what: str) -> ConfigError:
    return ConfigError(f"exporters.{name}.headers: {what}", field=f"exporters.{name}.headers")


def _agent() -> str:
    try:
        return f"otel-langfuse/{metadata.version('otel-langfuse')}"
    except metadata.PackageNotFoundError:
        return "otel-langfuse"
