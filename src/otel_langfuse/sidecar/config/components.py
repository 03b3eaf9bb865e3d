"""A document's sections to components, each validated by the model of its own type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from otel_langfuse.sidecar.config.document import Item
from otel_langfuse.sidecar.config.kinds import ALIASES, IN_FRONT, INSTEAD, KINDS, WORK_OF_THE_COLLECTOR
from otel_langfuse.sidecar.config.problems import Problems, Where, known_list, suggestion
from otel_langfuse.sidecar.config.schema import Service
from otel_langfuse.sidecar.config.sentences import report, report_absent
from otel_langfuse.sidecar.config.shaping import Shaper

__all__ = ["Component", "Parts", "canonical", "components_of", "explain_type", "nearest_id"]

M = TypeVar("M", bound=BaseModel)

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_NAME = re.compile(r"[^\s/\x00-\x1f\x7f\ud800-\udfff]{1,64}")
_NEEDED = ("receivers", "exporters", "service")


@dataclass(frozen=True, slots=True)
class Component:
    """A component that was defined and can be used.

    Attributes:
        id: ``type`` or ``type/name``, the type by its present name.
        where: Its path, as written.
        model: Its values.
    """

    id: str
    where: Where
    model: BaseModel


@dataclass(slots=True)
class Parts:
    """What a document holds.

    Attributes:
        components: By section and id, what can be used.
        refused: By section, the ids of what was defined and cannot be used, which has been said.
        missing: Sections without any component that must have one, which has been said.
        service: ``None`` when it cannot be used.
        items: By path, what stood in the file.
    """

    components: dict[str, dict[str, Component]] = field(default_factory=lambda: {section: {} for section in KINDS})
    refused: dict[str, set[str]] = field(default_factory=lambda: {section: set() for section in KINDS})
    missing: set[str] = field(default_factory=set)
    service: Service | None = None
    items: dict[Where, Item] = field(default_factory=dict)

    def all_of(self, kind: type[M]) -> Iterator[tuple[Component, M]]:
        """Every usable component of a model."""
        for section in self.components.values():
            for component in section.values():
                if isinstance(component.model, kind):
                    yield component, component.model


def canonical(section: str, written: str) -> str:
    """An id with the present name of its type."""
    kind, slash, name = written.partition("/")
    return ALIASES.get(section, {}).get(kind, kind) + slash + name


def explain_type(section: str, kind: str) -> str:
    """Why a type cannot be used in a section, and what to do."""
    if kind in INSTEAD.get(section, {}):
        return f"{kind} is not known here; {INSTEAD[section][kind]}"
    known = (*KINDS[section], *ALIASES.get(section, {}))
    other = next((name for name, kinds in KINDS.items() if name != section and kind in kinds), None)
    if other is not None:
        return f"{kind} belongs into {other}; known here: {known_list(known)}"
    near = suggestion(kind, known)
    rest = "" if near else f"; anything else is {WORK_OF_THE_COLLECTOR}"
    return f"the type is not known here{near}; known here: {known_list(known)}{rest}"


def components_of(root: Item, problems: Problems) -> Parts:
    """Reads all sections; what is wrong goes to ``problems``."""
    shaper = Shaper(problems)
    parts = Parts(items=shaper.items)
    sections = shaper.mapping(root, ())
    if sections is None:
        return parts
    for name, item in sections.items():
        if name in KINDS:
            _section(name, item, shaper, parts, problems)
        elif name != "service":
            _unknown_section(name, problems)
    for name in _NEEDED:
        if name not in sections:
            report_absent((name,), None, problems)
        elif name in KINDS and sections[name].value in (None, {}) and not sections[name].broken:
            problems.error((name,), f"is empty; define at least one: {known_list(KINDS[name])}")
    parts.missing = {name for name in _NEEDED if name in KINDS and not parts.components[name] and not parts.refused[name]}
    if "service" in sections:
        parts.service = _service(sections["service"], shaper, problems)
    return parts


def _unknown_section(name: str, problems: Problems) -> None:
    known = (*KINDS, "service")
    if name == "connectors":
        problems.error((name,), f"connectors are not known here; {IN_FRONT}")
    else:
        problems.error((name,), f"is an unknown key{suggestion(name, known)}; known here: {known_list(known)}")


def _section(section: str, item: Item, shaper: Shaper, parts: Parts, problems: Problems) -> None:
    for written, child in (shaper.mapping(item, (section,)) or {}).items():
        where = (section, written)
        component_id = canonical(section, written)
        taken = component_id in parts.components[section] or component_id in parts.refused[section]
        kind = _kind(section, written, where, problems)
        if kind is not None and taken:
            problems.error(where, f"is {component_id}, which is defined already; give one of them another name after the slash")
            continue
        model = _validated(kind, child, where, shaper, problems) if kind is not None else None
        if model is None:
            parts.refused[section].add(component_id)
        else:
            parts.components[section][component_id] = Component(component_id, where, model)


def _kind(section: str, written: str, where: Where, problems: Problems) -> type[BaseModel] | None:
    """The model of a component's type; ``None``, reported, when there is none."""
    kind, slash, name = written.partition("/")
    if not _TYPE.fullmatch(kind) or (slash and not _NAME.fullmatch(name)):
        problems.error(where, "is no id; write type or type/name, without spaces or further slashes, 64 characters at most")
        return None
    model = KINDS[section].get(ALIASES.get(section, {}).get(kind, kind))
    if model is None:
        problems.error(where, explain_type(section, kind))
    return model


def _validated(kind: type[M], item: Item, where: Where, shaper: Shaper, problems: Problems) -> M | None:
    data = None if item.broken else shaper.model(kind, item, where)
    if data is None:
        return None
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        report(error, kind, where, shaper.items, problems)
        return None


def _service(item: Item, shaper: Shaper, problems: Problems) -> Service | None:
    """The service, without what of it cannot be used: its other pipelines are still to be checked."""
    where: Where = ("service",)
    data = None if item.broken else shaper.model(Service, item, where)
    if data is None:
        return None
    try:
        return Service.model_validate(data)
    except ValidationError as error:
        report(error, Service, where, shaper.items, problems)
        refused = {detail["loc"][:2] for detail in error.errors(include_url=False)}
    pipelines = data.get("pipelines")
    if isinstance(pipelines, dict):
        data["pipelines"] = {name: value for name, value in pipelines.items() if ("pipelines", name) not in refused}
    for first in {steps[0] for steps in refused} - {"pipelines"}:
        data.pop(str(first), None)
    try:
        return Service.model_validate(data)
    except ValidationError:
        return None


def nearest_id(written: str, known: Iterable[str]) -> str:
    """The defined ids, with the nearest one, for the end of a message."""
    known = tuple(known)
    return f"{suggestion(written, known)}; defined are: {known_list(known)}" if known else "; none is defined"
