"""Between a Langfuse delivery and the journal: encoded requests are journaled before their first send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.sidecar.destinations.claims import Claims
from otel_langfuse.sidecar.entry import Journal, RefusedError, SpanKey

__all__ = ["Keeper"]


_MAX_PROMISED = 200_000


@dataclass(slots=True, eq=False)
class _Unkept:
    """A request that is not journaled: its spans, its parts, and the journaled request that they stand for."""

    keys: list[SpanKey]
    parts: int = 1
    replaces: int | None = None


class Keeper:
    """Keeps encoded requests in the journal; see ``langfuse.custody``.

    Args:
        journal: Where to.
        destination: In whose name.
        claims: What the spans of a request settle once the request is kept.
        counters: Takes ``unjournaled_requests``: sent without having been journaled, because that was not possible.
    """

    def __init__(self, journal: Journal, destination: str, claims: Claims, counters: Counters) -> None:
        self._journal = journal
        self._destination = destination
        self._claims = claims
        self._counters = counters
        # Requests, or the parts of one, that the journal could not take: what has to follow when all of them are settled.
        self._unkept: dict[int, _Unkept] = {}
        # Parents that were promised and have not been journaled yet.
        self._promised: set[SpanKey] = set()

    @property
    def durable(self) -> bool:
        """Whether a later process goes on with what is left."""
        return self._journal.durable

    def sealed(self, request: Request, spans: Sequence[EncodedSpan]) -> None:
        """Journals the request; from then on the entries behind it are no longer needed for its spans."""
        keys = [(span.trace_id, span.span_id) for span in spans]
        if self._journal.durable:
            try:
                request.id = self._journal.put_request(
                    self._destination,
                    request.body,
                    compressed=request.compressed,
                    spans=request.spans,
                    keys=self._claims.by_entry(keys),
                )
            except RefusedError:
                # Holding data back would not make room: they are sent, and their entries stay until that has succeeded.
                self._counters.count("unjournaled_requests")
                self._unkept[id(request)] = _Unkept(keys)
                return
            if self._promised and (kept := self._promised.intersection(keys)):
                self._promised -= kept
                self._journal.fulfil(self._destination, kept)
        self._claims.settle(keys)

    def promise(self, key: SpanKey, start_ns: int) -> None:
        """Remembers, for a next process too, that a row stands below a span that has not come."""
        if self._journal.durable and key not in self._promised and len(self._promised) < _MAX_PROMISED:
            self._promised.add(key)
            self._journal.promise(self._destination, key, start_ns)

    def promised(self, keys: Iterable[SpanKey]) -> None:
        """Takes over what an earlier process promised."""
        self._promised.update(keys)

    def sending(self, request: Request) -> None:
        """Notes that the outcome may become unknown from now on."""
        if request.id is not None:
            self._journal.attempt_request(request.id)

    def split(self, request: Request, parts: Sequence[Request]) -> None:
        """Journals the parts in the request's place."""
        if request.id is None:
            unkept = self._unkept.pop(id(request), None) or _Unkept([])
            unkept.parts += len(parts) - 1
        else:
            try:
                ids = self._journal.replace_request(request.id, [(part.body, part.compressed, part.spans) for part in parts])
            except RefusedError:
                self._counters.count("unjournaled_requests", len(parts))
                unkept = _Unkept([], len(parts), request.id)
            else:
                for part, part_id in zip(parts, ids, strict=True):
                    part.id = part_id
                return
        self._unkept.update((id(part), unkept) for part in parts)

    def settled(self, request: Request) -> None:
        """Forgets the request."""
        if request.id is not None:
            self._journal.request_done(request.id)
            return
        unkept = self._unkept.pop(id(request), None)
        if unkept is None:
            return
        unkept.parts -= 1
        if not unkept.parts:
            self._claims.settle(unkept.keys)
            if unkept.replaces is not None:
                self._journal.request_done(unkept.replaces)

    def lost(self, spans: Sequence[EncodedSpan]) -> None:
        """Settles what was dropped."""
        self._claims.settle([(span.trace_id, span.span_id) for span in spans])
