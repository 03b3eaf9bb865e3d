"""The Langfuse copy of a span: its row as attributes, masked, encoded.

Masking runs here, after mapping, on everything that can carry a person's words: content, metadata, parameters,
status messages, and resource attributes (which Langfuse shows as metadata). Ids, types, models, counts, times stay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

from otel_langfuse.dialects.reading import as_text
from otel_langfuse.langfuse.attributes import write
from otel_langfuse.langfuse.wire import AttributeValue, EncodedSpan, encode_resource, encode_scope, encode_span
from otel_langfuse.model import Value
from otel_langfuse.pipeline.row import Row

__all__ = ["LangfuseCopy", "TextMasker"]

_MASKED = {
    "langfuse.observation.input": "input",
    "langfuse.observation.output": "output",
    "langfuse.trace.input": "input",
    "langfuse.trace.output": "output",
    "langfuse.observation.status_message": "status_message",
    "langfuse.observation.model.parameters": "parameters",
}
_METADATA = ("langfuse.observation.metadata.", "langfuse.trace.metadata.")
_CACHED = 256


class TextMasker(Protocol):
    """What masks one text."""

    def mask_text(self, text: str, field: str) -> str:
        """The text without what must not leave."""


class LangfuseCopy:
    """Encodes rows; keeps the encoded resources and scopes of late, which most spans share.

    Args:
        masker: Applied to texts, or ``None``.
    """

    def __init__(self, masker: TextMasker | None = None) -> None:
        self._masker = masker
        self._resources: OrderedDict[int, tuple[Mapping[str, Value], bytes]] = OrderedDict()
        self._scopes: dict[tuple[str, str], bytes] = {}

    def encode(self, row: Row) -> EncodedSpan:
        """The span as Langfuse gets it."""
        view = row.view
        attributes = write(row)
        status = view.status_message
        if self._masker is not None:
            attributes = self._mask(attributes)
            status = self._masker.mask_text(status, "status_message") if status else ""
        return EncodedSpan(
            trace_id=view.trace_id,
            span_id=view.span_id,
            resource=self._resource(view.resource),
            scope=self._scope(view.scope_name, view.scope_version),
            span=encode_span(
                trace_id=view.trace_id,
                span_id=view.span_id,
                parent_id=row.parent_id,
                name=row.name,
                kind=view.kind,
                start_ns=view.start_ns,
                end_ns=view.end_ns,
                attributes=attributes,
                status_code=view.status_code,
                status_message=status,
            ),
        )

    def _mask(self, attributes: dict[str, AttributeValue]) -> dict[str, AttributeValue]:
        assert self._masker is not None
        out: dict[str, AttributeValue] = {}
        for key, value in attributes.items():
            field = _MASKED.get(key)
            if field is None and key.startswith(_METADATA):
                field = "metadata"
            if field is None:
                out[key] = value
            elif isinstance(value, str):
                out[key] = self._masker.mask_text(value, field)
            else:
                out[key] = value
        return out

    def _resource(self, resource: Mapping[str, Value]) -> bytes:
        known = self._resources.get(id(resource))
        if known is not None and known[0] is resource:
            return known[1]
        plain: dict[str, AttributeValue] = {}
        for key, value in resource.items():
            shown = value if isinstance(value, (bool, int, float)) else as_text(value)
            # Langfuse would read its own keys from the resource too; they are explicit on each span.
            if shown is None or key.startswith("langfuse."):
                continue
            if isinstance(shown, str) and self._masker is not None:
                shown = self._masker.mask_text(shown, "metadata")
            plain[key] = shown
        encoded = encode_resource(plain)
        self._resources[id(resource)] = (resource, encoded)
        if len(self._resources) > _CACHED:
            self._resources.popitem(last=False)
        return encoded

    def _scope(self, name: str, version: str) -> bytes:
        encoded = self._scopes.get((name, version))
        if encoded is None:
            encoded = encode_scope(name, version)
            if len(self._scopes) < _CACHED:
                self._scopes[name, version] = encoded
        return encoded
