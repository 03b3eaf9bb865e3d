"""Components and pipelines to the plan that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TypeVar

from otel_langfuse.sidecar.config.checks import check_values
from otel_langfuse.sidecar.config.components import Component, Parts
from otel_langfuse.sidecar.config.oversize import warn_oversize
from otel_langfuse.sidecar.config.pipelines import Pipeline, looked_up, pipelines_of
from otel_langfuse.sidecar.config.plan import LangfuseEnd, Listener, OtlpEnd, Plan
from otel_langfuse.sidecar.config.ports import Place, check_places, check_targets
from otel_langfuse.sidecar.config.problems import Problems, Where, quoted
from otel_langfuse.sidecar.config.schema import (
    Admin,
    BearerTokenAuth,
    DebugExporter,
    GrpcProtocol,
    HttpProtocol,
    JournalExtension,
    LangfuseExporter,
    LangfuseProcessor,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    OtlpReceiver,
    Service,
)
from otel_langfuse.sidecar.config.sentences import report_absent
from otel_langfuse.sidecar.entry import Signal

__all__ = ["resolve"]

E = TypeVar("E", Admin, JournalExtension)
End = TypeVar("End", LangfuseEnd, OtlpEnd)


def resolve(parts: Parts, problems: Problems) -> Plan:
    """The plan of a document; without meaning when ``problems`` has an error afterwards.

    Args:
        parts: What the document holds.
        problems: Takes what is wrong.
    """
    check_values(parts, problems)
    service = parts.service or Service(pipelines={})
    pipelines = pipelines_of(service, parts, problems) if parts.service is not None else []
    extensions = looked_up("extensions", service.extensions, ("service", "extensions"), parts, problems)
    admin = _only(Admin, extensions, problems)
    journal = _only(JournalExtension, extensions, problems)
    listeners = list(_listeners(pipelines, parts, extensions, problems))
    places = [place for _, place in listeners]
    if admin is not None:
        places.append(_admin_place(*admin, problems))
    used = _used(pipelines)
    check_places(places, problems)
    check_targets(used, places, problems)
    if parts.service is not None:
        _warn_unused(parts, pipelines, extensions, problems)
    journaled = journal is not None and journal[1].directory is not None
    langfuse = tuple(_patient(end, journaled) for end in _langfuse_ends(used, pipelines, problems))
    otlp = tuple(_patient(end, journaled) for end in _otlp_ends(used, pipelines, parts, problems))
    kept = journal[1] if journal else JournalExtension()
    warn_oversize([listener for listener, _ in listeners], [*langfuse, *otlp], kept, problems)
    return Plan(
        listeners=tuple(listener for listener, _ in listeners),
        langfuse=langfuse,
        otlp=otlp,
        admin=admin[1] if admin else None,
        journal=kept,
        service=service,
        warnings=problems.warnings,
    )


def _patient(end: End, journaled: bool) -> End:
    """The end, never giving up if its data are on disk and nobody said otherwise: the journal's ``max_age`` bounds that."""
    exporter = end.exporter
    if not journaled or isinstance(exporter, DebugExporter):
        return end
    retry = exporter.retry_on_failure
    if "max_elapsed_time" in retry.model_fields_set:
        return end
    patient = retry.model_copy(update={"max_elapsed_time": 0.0})
    return replace(end, exporter=exporter.model_copy(update={"retry_on_failure": patient}))


def _used(pipelines: Sequence[Pipeline]) -> list[Component]:
    """The exporters that stand in a pipeline, in the order in which they are first named."""
    return list({exporter.id: exporter for pipeline in pipelines for exporter in pipeline.exporters}.values())


def _only(kind: type[E], extensions: Sequence[Component], problems: Problems) -> tuple[Where, E] | None:
    """The one extension of a kind that the service names, with its path."""
    found = [(component, component.model) for component in extensions if isinstance(component.model, kind)]
    for component, _ in found[1:]:
        text = f"{quoted(component.id)} is a second one beside {quoted(found[0][0].id)}; name one"
        problems.error(("service", "extensions"), text)
    return (found[0][0].where, found[0][1]) if found else None


def _admin_place(where: Where, admin: Admin, problems: Problems) -> Place:
    if admin.key is None:
        problems.warn((*where, "key"), "is not set, so status and flush answer 403; health and metrics are served")
    # Health and metrics are public, and the rest has its key: nothing here is open by mistake.
    return Place((*where, "endpoint"), admin.endpoint, protected=True)


def _listeners(
    pipelines: Sequence[Pipeline], parts: Parts, extensions: Sequence[Component], problems: Problems
) -> Iterator[tuple[Listener, Place]]:
    for component, receiver in parts.all_of(OtlpReceiver):
        signals = frozenset(pipeline.signal for pipeline in pipelines if component in pipeline.receivers)
        protocols = {"grpc": receiver.protocols.grpc, "http": receiver.protocols.http}
        if not any(protocols.values()):
            problems.error((*component.where, "protocols"), "names none; write grpc: or http:, or both")
        for name, protocol in protocols.items():
            if protocol is None:
                continue
            where = (*component.where, "protocols", name)
            auth = _auth(protocol, (*where, "auth", "authenticator"), parts, extensions, problems)
            if not signals:
                continue
            token, scheme = (auth.token.get_secret_value(), auth.scheme) if auth else (None, "Bearer")
            protected = token is not None or (protocol.tls is not None and protocol.tls.client_ca_file is not None)
            place = Place((*where, "endpoint"), protocol.endpoint, protected)
            yield Listener(component.id, protocol, token, scheme, signals), place


def _auth(
    protocol: GrpcProtocol | HttpProtocol, where: Where, parts: Parts, extensions: Sequence[Component], problems: Problems
) -> BearerTokenAuth | None:
    """The extension that a listener asks, if it names one."""
    if protocol.auth is None:
        return None
    written = protocol.auth.authenticator
    component = parts.components["extensions"].get(written)
    if component is None:
        if written not in parts.refused["extensions"]:
            problems.error(where, "is not defined below extensions; define bearertokenauth there, with a token")
        return None
    if not isinstance(component.model, BearerTokenAuth):
        problems.error(where, f"{component.id} tells no senders apart; name an extension bearertokenauth")
        return None
    if component not in extensions:
        problems.error(where, f"{component.id} does not run; add it to service.extensions")
    return component.model


def _warn_unused(parts: Parts, pipelines: Sequence[Pipeline], extensions: Sequence[Component], problems: Problems) -> None:
    used = {component.where for component in extensions}
    for pipeline in pipelines:
        used |= {component.where for component in (*pipeline.receivers, *pipeline.exporters)}
        used |= {pipeline.processor.where} if pipeline.processor else set()
    for section, components in parts.components.items():
        place = "service.extensions" if section == "extensions" else "a pipeline"
        for component in components.values():
            if component.where not in used:
                problems.warn(component.where, f"is defined and not used; name it in {place}, or take it out")


def _receivers_of(exporter: Component, pipelines: Sequence[Pipeline]) -> Mapping[Signal, frozenset[str]]:
    """By signal, the receivers whose data an exporter gets."""
    found: dict[Signal, frozenset[str]] = {}
    for pipeline in pipelines:
        if exporter in pipeline.exporters:
            ids = frozenset(receiver.id for receiver in pipeline.receivers)
            found[pipeline.signal] = found.get(pipeline.signal, frozenset()) | ids
    return found


def _langfuse_ends(used: Sequence[Component], pipelines: Sequence[Pipeline], problems: Problems) -> Iterator[LangfuseEnd]:
    counting: set[str] = set()
    ends: list[LangfuseEnd] = []
    for component in used:
        pipeline = next(pipeline for pipeline in pipelines if component in pipeline.exporters)
        if not isinstance(component.model, LangfuseExporter) or pipeline.processor is None:
            continue
        processor = pipeline.processor.model
        if not isinstance(processor, LangfuseProcessor):
            continue
        routing = processor.routing
        end = LangfuseEnd(
            name=component.id,
            exporter=component.model,
            processor=processor,
            receivers=_receivers_of(component, pipelines),
            values=None if routing is None else frozenset(v for v, target in routing.routes.items() if target == component.id),
            is_default=routing is not None and routing.default == component.id,
            counts_unrouted=routing is not None and routing.default is None and pipeline.processor.id not in counting,
        )
        counting.add(pipeline.processor.id)
        ends.append(end)
        yield end
    for one, other in combinations([end for end in ends if end.values is None], 2):
        same = (one.exporter.base_url, one.exporter.public_key) == (other.exporter.base_url, other.exporter.public_key)
        if same and any(one.receivers[signal] & other.receivers.get(signal, frozenset()) for signal in one.receivers):
            text = f"is the project of {one.name} as well: it gets every span twice; take one of them out"
            problems.warn(("exporters", other.name), text)


def _otlp_ends(used: Sequence[Component], pipelines: Sequence[Pipeline], parts: Parts, problems: Problems) -> Iterator[OtlpEnd]:
    for component in used:
        if not isinstance(component.model, (OtlpGrpcExporter, OtlpHttpExporter, DebugExporter)):
            continue
        receivers = _receivers_of(component, pipelines)
        if isinstance(component.model, OtlpHttpExporter) and component.model.endpoint is None:
            for signal in receivers:
                if getattr(component.model, f"{signal}_endpoint") is None:
                    where = (*component.where, "endpoint")
                    report_absent(where, parts.items.get(where), problems, meaning=f"or {signal}_endpoint")
        yield OtlpEnd(component.id, component.model, receivers)
