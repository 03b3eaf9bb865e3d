"""Which spans and log records a Langfuse project gets: one tenant's never reach another's."""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.counters import Counters
from otel_langfuse.model import LogView, SpanView, Value
from otel_langfuse.sidecar.config.plan import LangfuseEnd

__all__ = ["Route"]

_NO_ROUTE_REMEDY = "No route takes their value, and there is no default: see processors.langfuse.routing."


class Route:
    """The way to one project.

    Args:
        end: Its exporter and processor.
        counters: Takes spans that nobody gets (``no_route``).
    """

    def __init__(self, end: LangfuseEnd, counters: Counters) -> None:
        self._end = end
        self._counters = counters

    def takes_span(self, view: SpanView) -> bool:
        """Whether a span goes here."""
        leads_here = self._leads_here(view.attributes, view.resource)
        if leads_here is None and self._end.counts_unrouted:
            self._counters.drop("no_route", 1, _NO_ROUTE_REMEDY)
        return self._end.is_default if leads_here is None else leads_here

    def takes_record(self, record: LogView) -> bool:
        """Whether a log record may be joined here.

        A record without a route is joined by the id of its span, which has one; one that names no span might be anyone's.
        """
        leads_here = self._leads_here(record.attributes, record.resource)
        return leads_here if leads_here is not None else bool(record.span_id) or self._end.is_default

    def _leads_here(self, attributes: Mapping[str, Value], resource: Mapping[str, Value]) -> bool | None:
        """What the routing attribute says, the item's own before its resource's; ``None``: nothing."""
        routing = self._end.processor.routing
        if routing is None or self._end.values is None:
            return True
        value = attributes.get(routing.attribute)
        if value is None:
            value = resource.get(routing.attribute)
        if value is None or str(value) not in routing.routes:
            return None
        return str(value) in self._end.values
