"""The Langfuse copy of a span: its row as attributes, masked, encoded.

Large media are taken out between attributes and masks: masks never see base64, and what a mask removes is not uploaded.
What is left then is a draft, which can wait for its media and be encoded in another thread.

Masking runs here, after mapping, on everything that can carry a person's words: content, metadata, parameters,
status messages, and resource attributes (which Langfuse shows as metadata). Ids, types, models, counts, times stay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from otel_langfuse.dialects.reading import as_text
from otel_langfuse.langfuse.attributes import VARYING_METADATA, as_metadata, common, metadata_name, varying, write
from otel_langfuse.langfuse.key_values import KeyValues
from otel_langfuse.langfuse.media import CONTENT_FIELDS, MARK, Media, extract, present, substitute
from otel_langfuse.langfuse.wire import (
    ATTRIBUTE,
    AttributeValue,
    EncodedSpan,
    encode_key_values,
    encode_resource,
    encode_scope,
    encode_span,
    encode_status,
    span_head,
)
from otel_langfuse.model import Chat, Facts, Stock, Value
from otel_langfuse.pipeline.row import Row

__all__ = ["Draft", "LangfuseCopy", "TextMasker"]

_MASKED = {
    **CONTENT_FIELDS,
    "langfuse.observation.status_message": "status_message",
    "langfuse.observation.model.parameters": "parameters",
}
_STRUCTURE = frozenset(
    f"langfuse.{key}"
    for key in (
        "observation.type observation.model.name observation.usage_details observation.cost_details observation.level "
        "observation.completion_start_time observation.prompt.name observation.prompt.version trace.name trace.public "
        "user.id session.id release version environment experiment.id experiment.dataset.id experiment.item.id "
        "experiment.item.version experiment.item.root_observation_id"
    ).split()
)
_CACHED = 256
_LONG = 8192  # characters of a message for which it is worth knowing where it stands
_PROBE = 64
_MARK = MARK.encode()


class TextMasker(Protocol):
    """What masks one text."""

    def mask_text(self, text: str, field: str) -> str:
        """The text without what must not leave."""


@dataclass(slots=True)
class Draft:
    """A span as Langfuse gets it, masked and not encoded yet. One is made for every row; nobody changes it.

    Attributes:
        media: Large media whose tokens stand in the attributes, once per field.
        masked_media: How many more there were before masking.
    """

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    kind: int
    start_ns: int
    end_ns: int
    status_code: int
    status_message: str = field(repr=False)
    attributes: Mapping[str, AttributeValue] = field(repr=False)
    resource: bytes = field(repr=False)
    scope: bytes = field(repr=False)
    media: tuple[Media, ...] = ()
    masked_media: int = 0

    @property
    def size(self) -> int:
        """Bytes held, about."""
        texts = sum(len(value) for value in self.attributes.values() if isinstance(value, str))
        return texts + sum(len(media.data) for media in self.media)

    def encode(self, shown: Mapping[Media, str] | None = None) -> EncodedSpan:
        """The bytes to send; media that ``shown`` has no text for are shown as notes."""
        attributes = self.attributes
        if self.media:
            shown = shown or {}
            attributes = substitute(attributes, {media: shown.get(media, media.note) for media in self.media})
        return EncodedSpan(
            trace_id=self.trace_id,
            span_id=self.span_id,
            resource=self.resource,
            scope=self.scope,
            span=encode_span(
                trace_id=self.trace_id,
                span_id=self.span_id,
                parent_id=self.parent_id,
                name=self.name,
                kind=self.kind,
                start_ns=self.start_ns,
                end_ns=self.end_ns,
                attributes=attributes,
                status_code=self.status_code,
                status_message=self.status_message,
            ),
        )


@dataclass(slots=True)
class _Ready:
    """What the spans of a stock have in common, encoded.

    Attributes:
        usable: Whether the common part and the rest can be written apart: no name is in both, nothing may be media.
        common: `attributes.common` as pieces of a span, with the metadata that comes next and is the same for all.
        loose: The other attributes that no reader took: key, name under which it shows, and the common part behind it.
    """

    usable: bool
    common: bytes = b""
    loose: tuple[tuple[str, str, bytes], ...] = ()

    @classmethod
    def of(cls, stock: Stock, facts: Facts) -> _Ready:
        """Encodes the common part."""
        shared = common(facts)
        names = [metadata_name(key) for key in stock.loose]
        taken = VARYING_METADATA.union(names)
        if len(set(names)) < len(names) or not shared.keys().isdisjoint(taken) or not VARYING_METADATA.isdisjoint(names):
            return cls(usable=False)
        runs = [shared]  # of common attributes, each behind one that is not, but for the first
        loose: list[tuple[str, str]] = []
        for key, name in zip(stock.loose, names, strict=True):
            if key not in stock.steady:
                loose.append((key, name))
                runs.append({})
            elif shown := as_metadata(stock.steady[key]):
                runs[-1][name] = shown
        if facts.passthrough or any(isinstance(value, str) and MARK in value for run in runs for value in run.values()):
            return cls(usable=False)
        first, *others = [encode_key_values(ATTRIBUTE, run) for run in runs]
        return cls(True, first, tuple((key, name, after) for (key, name), after in zip(loose, others, strict=True)))


def _texts(row: Row, span: bytes) -> tuple[tuple[int, int], ...]:
    """Where messages stand in the bytes of a span that both a generation and the entry row show."""
    found: list[tuple[int, int]] = []
    for content in (row.facts.input, row.facts.output, row.lifted_input, row.lifted_output):
        kept = content.messages[-1].kept if isinstance(content, Chat) and content.messages else None
        if kept and len(kept) >= _LONG:
            text = kept.encode("utf-8", "replace")
            start = span.find(text[:_PROBE])
            if start >= 0 and span.startswith(text, start):
                found.append((start, len(text)))
    return tuple(found)


class LangfuseCopy:
    """Drafts rows; keeps the encoded resources and scopes of late, which most spans share.

    Args:
        masker: Applied to texts, or ``None``.
        inline_bytes: Media up to this size stay in the text.
    """

    def __init__(self, masker: TextMasker | None = None, *, inline_bytes: int = 65_536) -> None:
        self._masker = masker
        self._inline_bytes = inline_bytes
        self._resources: OrderedDict[int, tuple[Mapping[str, Value], bytes]] = OrderedDict()
        self._scopes: dict[tuple[str, str], bytes] = {}
        self.start_empty()

    def start_empty(self) -> None:
        """Forgets what another thread may have been in the middle of, as after a fork."""
        self._key_values = KeyValues(ATTRIBUTE)

    def draft(self, row: Row) -> Draft:
        """The span as Langfuse gets it, with its large media beside it."""
        view = row.view
        attributes, found = extract(write(row), self._inline_bytes)
        media = found
        status = view.status_message
        if self._masker is not None:
            attributes = self._mask(attributes)
            media = present(attributes, found) if found else found
            status = self._masker.mask_text(status, "status_message") if status else ""
        return Draft(
            trace_id=view.trace_id,
            span_id=view.span_id,
            parent_id=row.parent_id,
            name=row.name,
            kind=view.kind,
            start_ns=view.start_ns,
            end_ns=view.end_ns,
            status_code=view.status_code,
            status_message=status,
            attributes=attributes,
            resource=self._resource(view.resource),
            scope=self._scope(view.scope_name, view.scope_version),
            media=media,
            masked_media=len(found) - len(media),
        )

    def finish(self, row: Row) -> EncodedSpan | Draft:
        """The span as Langfuse gets it, encoded; a draft if there are media to upload first."""
        stock = row.facts.stock
        if stock is not None and self._masker is None and not row.note:
            ready = stock.written
            if ready is None:
                ready = stock.written = _Ready.of(stock, row.facts)
            if ready.usable:
                span = self._with(ready, row)
                if span is not None:
                    return span
        draft = self.draft(row)
        if draft.media or draft.masked_media:
            return draft
        span = draft.encode()
        if len(span.span) >= _LONG:
            span.texts = _texts(row, span.span)
        return span

    def _with(self, ready: _Ready, row: Row) -> EncodedSpan | None:
        """The same bytes as a draft's, with what calls share taken from ``ready``; ``None`` if there may be media."""
        view = row.view
        pieces = span_head(view.trace_id, view.span_id, row.parent_id, row.name, view.kind, view.start_ns, view.end_ns)
        pieces.append(ready.common)
        for key, name, after in ready.loose:
            shown = as_metadata(view.attributes[key])
            if shown:
                self._key_values.add_one(pieces, name, shown)
            pieces.append(after)
        self._key_values.add(pieces, varying(row))
        if view.status_code or view.status_message:
            pieces.append(encode_status(view.status_code, view.status_message))
        span = b"".join(pieces)
        if len(span) > self._inline_bytes and _MARK in span:
            return None
        resource, scope = self._resource(view.resource), self._scope(view.scope_name, view.scope_version)
        texts = _texts(row, span) if len(span) >= _LONG else ()
        return EncodedSpan(view.trace_id, view.span_id, resource, scope, span, b"", b"", texts)  # by position: half the time

    def _mask(self, attributes: dict[str, AttributeValue]) -> dict[str, AttributeValue]:
        assert self._masker is not None
        out: dict[str, AttributeValue] = {}
        for key, value in attributes.items():
            if key in _STRUCTURE or not isinstance(value, str):
                out[key] = value
            else:
                # What is not known to be structure may carry a person's words, keys that are passed on as given, too.
                out[key] = self._masker.mask_text(value, _MASKED.get(key, "metadata"))
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
