"""What the application says about its traces: user, session, tags and the like, carried by the OpenTelemetry context.

Rules:
    - One key of the context holds one immutable ``Propagated``; reading it at the start of a span costs a lookup.
    - Nested calls merge: the inner value wins per field, tags add up in order, metadata merges per key.
    - Precedence on reading: ours, then what the Langfuse SDK's ``propagate_attributes`` left in the context, then W3C
      baggage where it is switched on.
    - Nothing raises into the host. A value that cannot be used is left out, with a warning that never shows it.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar, cast

from opentelemetry import baggage as otel_baggage
from opentelemetry.context import Context, attach, create_key, detach, get_current, set_value

from otel_langfuse.counters import OncePerInterval

__all__ = ["Propagated", "propagate_attributes", "propagated"]

logger = logging.getLogger(__name__)

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_EMPTY: Mapping[str, str] = MappingProxyType({})
_MOST_TAGS = 1000

_KEY = create_key("otel-langfuse-propagated")
_SDK_KEYS = {
    f"langfuse.propagated.{name}": name
    for name in ("user_id", "session_id", "tags", "metadata", "trace_name", "version", "environment")
}
_SDK_NAMES = frozenset(_SDK_KEYS)
# Names in baggage, the most explicit first; the ones with underscores are the Langfuse SDK's.
_BAGGAGE_KEYS = {
    "user_id": ("langfuse.user.id", "langfuse_user_id", "user.id", "enduser.id"),
    "session_id": ("langfuse.session.id", "langfuse_session_id", "session.id"),
    "tags": ("langfuse.trace.tags", "langfuse.tags", "langfuse_tags"),
    "trace_name": ("langfuse.trace.name", "langfuse_trace_name"),
    "version": ("langfuse.version", "langfuse_version"),
    "release": ("langfuse.release", "langfuse_release"),
    "environment": ("langfuse.environment", "langfuse_environment"),
}
_BAGGAGE_METADATA = ("langfuse.trace.metadata.", "langfuse_metadata_")

_may_warn = OncePerInterval(60.0)
# The innermost attachment, set beside each attach: it can be reset only in the same task or thread, and only there can
# the OpenTelemetry context be detached without an error in the log.
_innermost: ContextVar[_Attachment | None] = ContextVar("otel_langfuse_innermost", default=None)


@dataclass(frozen=True, slots=True)
class Propagated:
    """What spans of the current context inherit; fields that nobody set are ``None`` or empty."""

    user_id: str | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: _EMPTY, hash=False)
    trace_name: str | None = None
    version: str | None = None
    release: str | None = None
    environment: str | None = None


_NOTHING = Propagated()
_TEXTS = tuple(f.name for f in fields(Propagated) if f.name not in {"tags", "metadata"})


def propagated(context: Context | None = None, *, baggage: bool = False) -> Propagated | None:
    """What a span that starts in ``context`` inherits; ``None`` when nobody said anything.

    Args:
        context: The current context when ``None``.
        baggage: Whether W3C baggage counts too. It comes from outside, so it is off unless someone trusts the sender.
    """
    if context is None:
        context = get_current()
    ours = cast("Propagated | None", context.get(_KEY))
    if not baggage and _SDK_NAMES.isdisjoint(context):
        return ours
    found = ours or _NOTHING
    for source in (_from_sdk(context), _from_baggage(context) if baggage else None):
        if source is not None:
            # A user that was only derived from the persona gives way to one that was given.
            found = _merge(_without_persona_user(found) if source.user_id else found, source)
    return None if found == _NOTHING else found


def propagate_attributes(
    *,
    user_id: object = None,
    session_id: object = None,
    tags: Iterable[object] | None = None,
    metadata: Mapping[str, object] | None = None,
    trace_name: object = None,
    version: object = None,
    persona: object = None,
    release: object = None,
    environment: object = None,
) -> _Propagation:
    """Gives every span that starts inside these attributes in Langfuse.

    Use it with ``with`` or ``async with``, or as a decorator on functions, coroutine functions, generators and async
    generators. A decorated generator has the attributes while it runs, its consumer does not. Values that are no
    strings are written as strings; ``None`` and empty strings mean "not given".

    Args:
        user_id: Who uses the application.
        session_id: What groups several traces, such as a conversation.
        tags: Added to the tags that are in force outside.
        metadata: Merged per key with the metadata in force outside. Values that are no strings are written as JSON.
        trace_name: The trace's name in Langfuse.
        version: Version of the traced component.
        persona: Goes to metadata ``persona``, and is the user where no user is given, here or outside.
        release: Release of the application.
        environment: Langfuse environment, such as ``production``.
    """
    here = _read("metadata", _metadata, metadata) or {}
    texts = {"persona": persona, "user_id": user_id, "session_id": session_id, "trace_name": trace_name}
    texts |= {"version": version, "release": release, "environment": environment}
    read = {name: _read(name, _text, value) for name, value in texts.items()}
    who = read.pop("persona")
    if who is not None:
        here["persona"] = who
    given = Propagated(tags=_read("tags", _tags, tags) or (), metadata=MappingProxyType(here), **read)
    return _Propagation(given, who)


class _Propagation:
    """A context manager and decorator; may be entered again, and by several tasks at once."""

    __slots__ = ("_given", "_persona")

    def __init__(self, given: Propagated, persona: str | None) -> None:
        self._given = given
        self._persona = persona

    def _context(self) -> Context:
        """The current context with these attributes merged in."""
        context = get_current()
        outer = cast("Propagated | None", context.get(_KEY)) or _NOTHING
        given = self._given
        if self._persona is not None and given.user_id is None:
            outer = _without_persona_user(outer)
            given = _merge(given, Propagated(user_id=outer.user_id or self._persona))
        return set_value(_KEY, _merge(given, outer, tags_last=False), context)

    def __enter__(self) -> None:
        _Attachment(self._context(), self)

    def __exit__(self, *error: object) -> None:
        attachment = _innermost.get()
        while attachment is not None and attachment.owner is not self:
            attachment = attachment.outer
        # None when left in another task or thread than entered: that context goes away on its own.
        if attachment is not None:
            attachment.undo()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)

    def __call__(self, function: _F) -> _F:
        """``function`` with these attributes around each of its calls."""
        # An object may have any of these as its __call__.
        kinds = (function, type(function).__call__)
        if any(map(inspect.isasyncgenfunction, kinds)):
            return cast("_F", self._around_async_generator(function))
        if any(map(inspect.isgeneratorfunction, kinds)):
            return cast("_F", self._around_generator(function))
        if any(map(inspect.iscoroutinefunction, kinds)):

            @functools.wraps(function)
            async def coroutine(*args: Any, **keywords: Any) -> Any:
                with self:
                    return await function(*args, **keywords)

            return cast("_F", coroutine)

        @functools.wraps(function)
        def plain(*args: Any, **keywords: Any) -> Any:
            with self:
                return function(*args, **keywords)

        return cast("_F", plain)

    def _around_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def generator(*args: Any, **keywords: Any) -> Generator[Any, Any, Any]:
            inner = function(*args, **keywords)
            own = _OwnContext(self._context())
            step = functools.partial(inner.send, None)
            while True:
                with own:
                    try:
                        item = step()
                    except StopIteration as stop:
                        return stop.value
                try:
                    sent = yield item
                except GeneratorExit:
                    with own:
                        inner.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - handed on to the generator, as yield from does
                    step = functools.partial(inner.throw, error)
                else:
                    step = functools.partial(inner.send, sent)

        return generator

    def _around_async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def generator(*args: Any, **keywords: Any) -> AsyncGenerator[Any, Any]:
            inner = function(*args, **keywords)
            own = _OwnContext(self._context())
            step = functools.partial(inner.asend, None)
            while True:
                with own:
                    try:
                        item = await step()
                    except StopAsyncIteration:
                        return
                try:
                    sent = yield item
                except GeneratorExit:
                    with own:
                        await inner.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - handed on to the generator
                    step = functools.partial(inner.athrow, error)
                else:
                    step = functools.partial(inner.asend, sent)

        return generator


class _Attachment:
    """One attached context and what it takes to undo it."""

    __slots__ = ("_mark", "_token", "outer", "owner")

    def __init__(self, context: Context, owner: object) -> None:
        self.owner = owner
        self.outer = _innermost.get()
        self._mark = _innermost.set(self)
        self._token = attach(context)

    def undo(self) -> None:
        """Restores the context from before; does nothing in another task or thread, or a second time."""
        try:
            _innermost.reset(self._mark)
        except (ValueError, RuntimeError):
            return
        detach(self._token)


class _OwnContext:
    """A generator's own context: in force while it runs, put away while it is suspended.

    What the generator attaches itself, such as the span around a ``yield``, is there again when it goes on.
    """

    __slots__ = ("_attachment", "_context")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._attachment = _Attachment(self._context, self)

    def __exit__(self, *_: object) -> None:
        self._context = get_current()
        self._attachment.undo()


def _merge(first: Propagated, second: Propagated, *, tags_last: bool = True) -> Propagated:
    """Per field the first value, else the second; all tags, those of ``second`` last or first."""
    tags = (*first.tags, *second.tags) if tags_last else (*second.tags, *first.tags)
    return Propagated(
        tags=tuple(dict.fromkeys(tags)),
        metadata=MappingProxyType({**second.metadata, **first.metadata}),
        **{name: getattr(first, name) or getattr(second, name) for name in _TEXTS},
    )


def _without_persona_user(found: Propagated) -> Propagated:
    if found.user_id is None or found.user_id != found.metadata.get("persona"):
        return found
    return replace(found, user_id=None)


def _from_sdk(context: Context) -> Propagated | None:
    """What the Langfuse SDK's own ``propagate_attributes`` put into the context."""
    found = {name: context[key] for key, name in _SDK_KEYS.items() if context.get(key) is not None}
    if not found:
        return None
    return _foreign(found)


def _foreign(found: Mapping[str, object]) -> Propagated:
    """Values by field name that others have set."""
    return Propagated(
        tags=_read("tags", _tags, found.get("tags")) or (),
        metadata=MappingProxyType(_decoded(_read("metadata", _metadata, found.get("metadata")) or {})),
        **{name: _read(name, _text, found.get(name)) for name in _TEXTS},
    )


def _from_baggage(context: Context) -> Propagated | None:
    entries = otel_baggage.get_all(context)
    if not entries:
        return None

    found: dict[str, object] = {
        name: next((entries[key] for key in keys if entries.get(key)), None) for name, keys in _BAGGAGE_KEYS.items()
    }
    if isinstance(tags := found["tags"], str):
        # A list goes through baggage as its text: a,b or ["a","b"] or ['a', 'b'].
        found["tags"] = [tag.strip(" '\"") for tag in tags.strip(" []").split(",")]
    found["metadata"] = {
        key.removeprefix(prefix): value
        for prefix in reversed(_BAGGAGE_METADATA)
        for key, value in entries.items()
        if key.startswith(prefix)
    }
    return _foreign(found)


def _decoded(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata as ours is: a plain string, which the SDK writes as JSON, in quotes, loses them."""
    for key, value in metadata.items():
        if value[:1] == '"':
            try:
                text = json.loads(value)
            except (ValueError, RecursionError):
                continue
            if isinstance(text, str):
                metadata[key] = text
    return metadata


def _read(name: str, reader: Callable[[Any], _T], value: object) -> _T | None:
    """What ``reader`` makes of a value; ``None`` for one that cannot be used, with a warning once a minute."""
    if value is None:
        return None
    try:
        return reader(value)
    except Exception:  # noqa: BLE001 - the border to the application's own objects: their methods may raise anything
        if _may_warn(name):
            logger.warning("otel-langfuse: %s of type %s cannot be propagated and is left out.", name, type(value).__name__)
        return None


def _text(value: object) -> str | None:
    if isinstance(value, str):
        # A member of a string enumeration is its text.
        return str.__str__(value) or None
    if isinstance(value, (Mapping, list, tuple, set, frozenset, bytes, bytearray)):
        raise TypeError
    return str(value) or None


def _tags(value: object) -> tuple[str, ...]:
    if isinstance(value, (Mapping, bytes, bytearray)):
        raise TypeError
    items = [value] if isinstance(value, str) else itertools.islice(cast("Iterable[object]", value), _MOST_TAGS)
    tags = (_read("tags", _text, item) for item in items)
    return tuple(dict.fromkeys(tag for tag in tags if tag is not None))


def _metadata(value: Mapping[object, object]) -> dict[str, str]:
    read = ((_text(key), _read("metadata", _json, item)) for key, item in value.items())
    return {key: item for key, item in read if key is not None and item is not None}


def _json(value: object) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bool, int, float, Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
