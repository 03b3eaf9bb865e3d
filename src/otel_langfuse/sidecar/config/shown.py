"""The plan in words, for ``--check`` and the log; without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from otel_langfuse.sidecar.config.plan import LangfuseEnd, Listener, OtlpEnd, Plan
from otel_langfuse.sidecar.config.schema import (
    DebugExporter,
    JournalExtension,
    LangfuseProcessor,
    LangfuseRetry,
    OtlpGrpcExporter,
)
from otel_langfuse.sidecar.entry import Signal

__all__ = ["describe"]

_MIB = 1 << 20


def describe(plan: Plan) -> str:
    """The listeners, ways and ends of a plan, one a line, and its warnings; no value of a secret."""
    lines = ["listeners"]
    lines += [f"  {_listener(listener)}" for listener in plan.listeners]
    lines.append("pipelines")
    for project in plan.langfuse:
        lines += [f"  {line}" for line in _ways(project.name, project.receivers, "langfuse processor -> ")]
    for backend in plan.otlp:
        lines += [f"  {line}" for line in _ways(backend.name, backend.receivers, "")]
    lines.append("destinations")
    lines += [f"  {project.name}: {', '.join(_project(project))}" for project in plan.langfuse]
    lines += [f"  {backend.name}: {', '.join(_backend(backend))}" for backend in plan.otlp]
    lines.append(f"admin: {_admin(plan)}")
    lines.append(f"journal: {_journal(plan.journal)}")
    lines.append(f"shutdown: {_seconds(plan.service.shutdown_timeout)} to drain")
    lines += [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def _listener(listener: Listener) -> str:
    protocol = listener.protocol
    kind = "HTTP" if hasattr(protocol, "traces_url_path") else "gRPC"
    tls = "no TLS" if protocol.tls is None else "TLS" if protocol.tls.client_ca_file is None else "TLS with client certificates"
    auth = "open" if listener.token is None else f"token ({listener.scheme})"
    return f"{listener.receiver}: OTLP/{kind} on {protocol.endpoint}, {' and '.join(sorted(listener.signals))}, {tls}, {auth}"


def _ways(name: str, receivers: Mapping[Signal, frozenset[str]], through: str) -> Iterator[str]:
    for signal in Signal:
        if signal in receivers:
            yield f"{signal}: {', '.join(sorted(receivers[signal]))} -> {through}{name}"


def _project(end: LangfuseEnd) -> Iterator[str]:
    exporter = end.exporter
    yield f"Langfuse at {_url(exporter.base_url)}"
    # Only what looks like a public key is shown; something else may have been put there by mistake.
    yield f"key {exporter.public_key[:10]}…" if exporter.public_key.startswith("pk-lf-") else "key set"
    yield _queue(exporter.sending_queue.queue_size)
    yield _patience(exporter.retry_on_failure)
    yield from _processor(end.processor)
    if end.values is not None and end.processor.routing is not None:
        values = ", ".join(repr(value) for value in sorted(end.values)) or "no value"
        rest = " and all without a route" if end.is_default else ""
        yield f"takes {end.processor.routing.attribute} = {values}{rest}"


def _processor(processor: LangfuseProcessor) -> Iterator[str]:
    yield f"window {_seconds(processor.window)}"
    yield f"masks {' and '.join(processor.mask)}" if processor.mask else "masks nothing"
    if not processor.capture_content:
        yield "no content"
    if processor.sample_rate < 1:
        yield f"{processor.sample_rate:.4%} of the traces".replace(".0000%", "%")
    if processor.environment:
        yield f"environment {processor.environment} unless spans name one"


def _backend(end: OtlpEnd) -> Iterator[str]:
    exporter = end.exporter
    if isinstance(exporter, DebugExporter):
        yield f"the log, {exporter.verbosity}"
        return
    if isinstance(exporter, OtlpGrpcExporter):
        plain = exporter.endpoint.startswith("http://") or (exporter.tls.insecure and "://" not in exporter.endpoint)
        yield f"OTLP/gRPC to {exporter.endpoint}, {'no TLS' if plain else 'TLS'}"
    else:
        base = (exporter.endpoint or "").rstrip("/")
        own = {Signal.TRACES: exporter.traces_endpoint, Signal.LOGS: exporter.logs_endpoint}
        addresses = [_url(own[signal] or f"{base}/v1/{signal}") for signal in Signal if signal in end.signals]
        yield f"OTLP/HTTP to {' and '.join(addresses)}"
    yield f"compression {exporter.compression}"
    yield _queue(exporter.sending_queue.queue_size)
    yield _patience(exporter.retry_on_failure)
    yield f"content {exporter.content}"
    if exporter.sampling.percentage < 100:
        yield f"{exporter.sampling.percentage:g}% of the traces"
    if exporter.headers:
        yield f"headers {', '.join(sorted(exporter.headers))}"


def _admin(plan: Plan) -> str:
    if plan.admin is None:
        return "off"
    key = "with a key" if plan.admin.key is not None else "off, no key is set"
    return f"health and metrics on {plan.admin.endpoint}; status and flush {key}"


def _journal(journal: JournalExtension) -> str:
    if journal.directory is None:
        return "in memory; a crash loses what is not delivered"
    sync = "each commit reaches the disk" if journal.fsync else "survives a crash of the process, not of the machine"
    return f"{journal.directory}, {_size(journal.max_bytes)}, {_seconds(journal.max_age)}, {sync}"


def _url(url: str) -> str:
    """A URL without its query, which may hold a token."""
    return url.partition("?")[0] + ("?…" if urlsplit(url).query else "")


def _queue(size: int) -> str:
    return f"queue {_size(size)}"


def _patience(retry: LangfuseRetry) -> str:
    if not retry.enabled:
        return "no retries"
    return f"retries for {_seconds(retry.max_elapsed_time)}" if retry.max_elapsed_time else "retries without end"


def _size(size: int) -> str:
    return f"{size / _MIB:.6g} MiB" if size >= _MIB else f"{size} bytes"


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"
