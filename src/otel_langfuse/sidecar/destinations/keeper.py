"""Between a Langfuse delivery and the journal: encoded requests are journaled before their first send."""

from __future__ import annotations

from collections.abc import Sequence

from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.sidecar.destinations.claims import Claims
from otel_langfuse.sidecar.entry import Journal, RefusedError, SpanKey

__all__ = ["Keeper"]


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
        # Requests that the journal could not take, with the spans that they hold.
        self._unkept: dict[int, list[SpanKey]] = {}

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
                self._unkept[id(request)] = keys
                return
        self._claims.settle(keys)

    def sending(self, request: Request) -> None:
        """Notes that the outcome may become unknown from now on."""
        if request.id is not None:
            self._journal.attempt_request(request.id)

    def split(self, request: Request, parts: Sequence[Request]) -> None:
        """Journals the parts in the request's place."""
        if request.id is None:
            self.settled(request)
            return
        try:
            ids = self._journal.replace_request(request.id, [(part.body, part.compressed, part.spans) for part in parts])
        except RefusedError:
            self._counters.count("unjournaled_requests", len(parts))
            return
        for part, part_id in zip(parts, ids, strict=True):
            part.id = part_id

    def settled(self, request: Request) -> None:
        """Forgets the request."""
        if request.id is not None:
            self._journal.request_done(request.id)
        else:
            self._claims.settle(self._unkept.pop(id(request), ()))

    def lost(self, spans: Sequence[EncodedSpan]) -> None:
        """Settles what was dropped."""
        self._claims.settle([(span.trace_id, span.span_id) for span in spans])
