"""The fields of the SDK's spans and events, where its public properties cost a multiple; they answer where a field is missing.

To iterate the SDK's mapping of attributes runs Python code for each of them, and its list of events takes a lock. Both copy
what they hold in one go. Imported with the package, so it needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["attributes_of", "events_of"]


def attributes_of(owner: Any) -> dict[str, Any]:
    """The attributes of a span, event or resource as a dict of their own."""
    try:
        return owner._attributes._dict.copy()  # type: ignore[no-any-return]  # noqa: SLF001
    except AttributeError:
        return dict(owner.attributes or {})


def events_of(span: Any) -> Sequence[Any]:
    """The events of a span so far."""
    try:
        return tuple(span._events._dq)  # noqa: SLF001
    except AttributeError:
        return span.events or ()
