"""Who and what a trace is about, on every span: user, session, tags, metadata, name, release, version, environment.

Langfuse v4 stores these per row and inherits nothing (rules section 6). They flow down from what was propagated at a
span's start and from its kept ancestors; what is found below also goes on the entry row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from otel_langfuse.model import Facts, Value

__all__ = ["NOTHING", "Context", "combine", "normalise_environment", "of_facts", "of_resource"]

_ENVIRONMENT = re.compile(r"[a-z0-9\-_]+")


@dataclass(slots=True)
class Context:
    """One source's word on a trace; ``conversation`` becomes the session only if nothing else does.

    Shared between nodes and changed by nobody; not frozen, because several are made per span.
    """

    user: str | None = None
    session: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    trace_name: str | None = None
    workflow: str | None = None
    conversation: str | None = None
    release: str | None = None
    version: str | None = None
    environment: str | None = None

    def of_trace(self) -> Context:
        """What holds for the whole trace, and not for one service in it."""
        if not (self.release or self.version or self.environment):
            return self
        return Context(self.user, self.session, self.tags, self.metadata, self.trace_name, self.workflow, self.conversation)


NOTHING = Context()


def of_facts(facts: Facts) -> Context | None:
    """What a span itself says."""
    if not (
        facts.user
        or facts.session
        or facts.tags
        or facts.trace_metadata
        or facts.trace_name
        or facts.workflow
        or facts.conversation
        or facts.release
        or facts.version
        or facts.environment
    ):
        return None
    return Context(
        user=facts.user,
        session=facts.session,
        tags=facts.tags,
        metadata=facts.trace_metadata,
        trace_name=facts.trace_name,
        workflow=facts.workflow,
        conversation=facts.conversation,
        release=facts.release,
        version=facts.version,
        environment=facts.environment,
    )


def of_resource(resource: Mapping[str, Value]) -> Context:
    """What the resource says (rules section 6); the server reads no user or session there."""

    def first(*keys: str) -> str | None:
        return next((value for key in keys if isinstance(value := resource.get(key), str) and value), None)

    return Context(
        release=first("langfuse.release"),
        version=first("langfuse.version", "service.version"),
        environment=first("langfuse.environment", "deployment.environment.name", "deployment.environment"),
    )


def combine(layers: Iterable[Context | None]) -> Context:
    """One context from layers, strongest first: single values from the first that has one, tags and metadata united."""
    said = [layer for layer in layers if layer is not None]
    if len(said) < 2:
        return said[0] if said else NOTHING
    user = session = name = workflow = conversation = release = version = environment = None
    tags: dict[str, None] = {}
    metadata: dict[str, str] = {}
    for layer in said:
        user = user or layer.user
        session = session or layer.session
        name = name or layer.trace_name
        workflow = workflow or layer.workflow
        conversation = conversation or layer.conversation
        release = release or layer.release
        version = version or layer.version
        environment = environment or layer.environment
        if layer.tags:
            tags.update(dict.fromkeys(layer.tags))
        if layer.metadata:
            for key, value in layer.metadata.items():
                metadata.setdefault(key, value)
    return Context(user, session, tuple(tags), metadata, name, workflow, conversation, release, version, environment)


@lru_cache(maxsize=256)
def normalise_environment(given: str) -> str:
    """An environment's name as the server makes it (T:PublicEnvironmentName), so that what we send is what is shown."""
    name = re.sub(r"^langfuse[-_]?", "", given.lower())[:40]
    return name if _ENVIRONMENT.fullmatch(name) else "default"
