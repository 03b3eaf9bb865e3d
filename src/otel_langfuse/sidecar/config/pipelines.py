"""The pipelines of a service, with every id looked up, and the rules that hold between their parts.

Rules:

- A pipeline leads from receivers either through one ``langfuse`` processor to ``langfuse`` exporters, or without a
  processor to all others. What should go both ways takes two pipelines with the same receivers.
- An exporter of a Langfuse project has one processor, for spans and log records alike: they meet there.
- A processor that routes leads to the exporters that its routes name, in each of its pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from otel_langfuse.sidecar.config.components import Component, Parts, canonical, explain_type, nearest_id
from otel_langfuse.sidecar.config.kinds import ALIASES, IN_FRONT, KINDS
from otel_langfuse.sidecar.config.problems import Problems, Where, known_list, quoted, suggestion
from otel_langfuse.sidecar.config.schema import LangfuseExporter, LangfuseProcessor, PipelineConfig, Routing, Service
from otel_langfuse.sidecar.entry import Signal

__all__ = ["Pipeline", "looked_up", "pipelines_of"]

_PIPELINES = ("service", "pipelines")
_SIGNALS = tuple(signal.value for signal in Signal)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline, with what could be looked up of it.

    Attributes:
        where: Its path.
        signal: What goes through it.
        receivers, exporters: Its ends.
        processor: The ``langfuse`` processor, if it has one that can be used.
    """

    where: Where
    signal: Signal
    receivers: tuple[Component, ...]
    processor: Component | None
    exporters: tuple[Component, ...]


def pipelines_of(service: Service, parts: Parts, problems: Problems) -> list[Pipeline]:
    """All pipelines that can be used at least in part; what is wrong goes to ``problems``."""
    given = parts.items.get(_PIPELINES)
    if given is not None and given.value == {}:
        problems.error(_PIPELINES, "is empty; add one, for example traces with receivers, processors and exporters")
    found = []
    for name, config in service.pipelines.items():
        signal = _signal(name, problems)
        if signal is not None:
            found.append(_pipeline(signal, (*_PIPELINES, name), config, parts, problems))
    _check_processors(found, problems)
    _check_routing(found, parts, problems)
    _check_logs(found, problems)
    return found


def looked_up(section: str, ids: Sequence[str], where: Where, parts: Parts, problems: Problems) -> tuple[Component, ...]:
    """The components that a list of ids names; ids that name none, or one twice, are reported."""
    found: dict[str, Component] = {}
    seen: set[str] = set()
    for index, written in enumerate(ids):
        component_id = canonical(section, written)
        place = (*where, index)
        if component_id in seen:
            problems.error(place, "is named a second time; take it out")
        elif component_id in parts.components[section]:
            found[component_id] = parts.components[section][component_id]
        elif component_id not in parts.refused[section] and section not in parts.missing:
            problems.error(place, _unknown_id(section, written, parts))
        seen.add(component_id)
    return tuple(found.values())


def _unknown_id(section: str, written: str, parts: Parts) -> str:
    kind = written.partition("/")[0]
    if kind not in KINDS[section] and kind not in ALIASES.get(section, {}):
        # What is no id may be anything, a secret from the wrong variable too: it is not shown.
        return explain_type(section, kind)
    defined = (*parts.components[section], *parts.refused[section])
    return f"{quoted(written)} is not defined below {section}{nearest_id(written, defined)}"


def _signal(name: str, problems: Problems) -> Signal | None:
    kind, slash, rest = name.partition("/")
    where = (*_PIPELINES, name)
    if kind in _SIGNALS and (rest or not slash):
        return Signal(kind)
    if kind in ("metrics", "profiles"):
        problems.error(where, f"{kind} are not taken; {IN_FRONT}")
    else:
        near = suggestion(kind, _SIGNALS)
        problems.error(where, f"is no pipeline of a known signal{near}; name it {known_list(_SIGNALS)}, or like traces/name")
    return None


def _pipeline(signal: Signal, where: Where, config: PipelineConfig, parts: Parts, problems: Problems) -> Pipeline:
    receivers = looked_up("receivers", config.receivers, (*where, "receivers"), parts, problems)
    processors = looked_up("processors", config.processors, (*where, "processors"), parts, problems)
    exporters = looked_up("exporters", config.exporters, (*where, "exporters"), parts, problems)
    mapped = [written for written in config.processors if _is_langfuse(written)]
    if len(mapped) > 1 and len(processors) > 1:
        problems.error((*where, "processors", 1), "is a second langfuse processor; a pipeline has one")
    for index, written in enumerate(config.exporters):
        place = (*where, "exporters", index)
        if _is_langfuse(written) and not mapped:
            problems.error(place, f"{quoted(written)} gets spans from a langfuse processor only; add processors: [langfuse]")
        elif mapped and not _is_langfuse(written) and canonical("exporters", written) in parts.components["exporters"]:
            text = (
                f"{quoted(written)} takes what was received, and stands behind a langfuse processor; give it a second pipeline "
                f"with the same receivers and no processors, like {signal}/{written.partition('/')[2] or written}"
            )
            problems.error(place, text)
    return Pipeline(where, signal, receivers, processors[0] if processors else None, exporters)


def _is_langfuse(written: str) -> bool:
    return written.partition("/")[0] == "langfuse"


def _check_processors(pipelines: Sequence[Pipeline], problems: Problems) -> None:
    first: dict[str, tuple[Component, Pipeline]] = {}
    for pipeline in pipelines:
        for exporter in pipeline.exporters:
            if pipeline.processor is None or not isinstance(exporter.model, LangfuseExporter):
                continue
            processor, other = first.setdefault(exporter.id, (pipeline.processor, pipeline))
            if processor.id != pipeline.processor.id:
                text = (
                    f"{exporter.id} stands behind {processor.id} in {other.where[-1]} and behind {pipeline.processor.id} here; "
                    "an exporter has one processor: define a second exporter"
                )
                problems.error((*pipeline.where, "processors"), text)


def _check_routing(pipelines: Sequence[Pipeline], parts: Parts, problems: Problems) -> None:
    """Routes must lead to what stands in the pipeline, and all that stands there must have a route."""
    for component, processor in parts.all_of(LangfuseProcessor):
        if processor.routing is None:
            continue
        where = (*component.where, "routing")
        wanted = {}
        for place, written in _routed(processor.routing):
            target = canonical("exporters", written)
            if not _is_langfuse(written):
                problems.error((*where, *place), "is no langfuse exporter; routes lead to projects, so name one of those")
            elif target in parts.components["exporters"]:
                wanted[target] = place
            elif target not in parts.refused["exporters"] and "exporters" not in parts.missing:
                problems.error((*where, *place), _unknown_id("exporters", written, parts))
        if not processor.routing.routes:
            problems.error((*where, "routes"), "is empty; write value: exporter, one a line, or take routing out")
        for pipeline in pipelines:
            if pipeline.processor is component:
                _check_routes(pipeline, wanted, component, problems)


def _routed(routing: Routing) -> Iterator[tuple[Where, str]]:
    yield from ((("routes", value), written) for value, written in routing.routes.items())
    if routing.default is not None:
        yield ("default",), routing.default


def _check_routes(pipeline: Pipeline, wanted: dict[str, Where], processor: Component, problems: Problems) -> None:
    there = {exporter.id for exporter in pipeline.exporters}
    for missing in sorted(wanted.keys() - there):
        text = f"lack {missing}, to which routing of {processor.id} leads; add it"
        problems.error((*pipeline.where, "exporters"), text)
    for exporter in pipeline.exporters:
        if isinstance(exporter.model, LangfuseExporter) and exporter.id not in wanted:
            text = f"hold {exporter.id}, to which no route of {processor.id} leads; add a route or a default, or take it out"
            problems.error((*pipeline.where, "exporters"), text)


def _check_logs(pipelines: Sequence[Pipeline], problems: Problems) -> None:
    """Log records give content to spans; without spans they come to nothing."""
    with_spans = {exporter.id for pipeline in pipelines if pipeline.signal is Signal.TRACES for exporter in pipeline.exporters}
    for pipeline in pipelines:
        for exporter in pipeline.exporters:
            is_project = isinstance(exporter.model, LangfuseExporter)
            if pipeline.signal is Signal.LOGS and is_project and exporter.id not in with_spans:
                text = f"{exporter.id} gets log records and no spans to join them to; add it to a traces pipeline"
                problems.warn((*pipeline.where, "exporters"), text)
