"""What one destination gets of a payload: a share of the traces, and more or less of their content.

Rules:

- Whether a trace is kept depends on its id alone, as the SDK's ratio sampler decides, so that spans and log records of a
  trace stay together at every destination with the same share. Records without a trace id are kept.
- ``drop`` removes content; ``truncate: N`` keeps N bytes of each text, in valid UTF-8, and a mark after it. Content is what
  ``otlp/content_keys.py`` says, on spans, in their events, and in log records; of GenAI log records the body is content too.
- Ids, times, names, models, token counts, status and exceptions stay as they are.
- Equal bytes in, equal bytes out, and applied twice it changes nothing more. A payload in which nothing is to be changed
  goes on as it came, and one without a hint of content is not even read.
- What cannot be read does not go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from otel_langfuse.otlp.content import EXCEPTION, cut, is_message, looks_genai, speaks, without_content
from otel_langfuse.otlp.content_keys import HINTS, PARAMETERS, Holds, holds, is_structure
from otel_langfuse.pipeline.options import Options
from otel_langfuse.sidecar.destinations.payloads import parse, remove_items, scopes_of
from otel_langfuse.sidecar.entry import Signal

__all__ = ["Applied", "Policy"]


@dataclass(frozen=True, slots=True)
class Applied:
    """A payload after the policy.

    Attributes:
        payload: The bytes to send.
        items: Spans or log records in it.
        left_out: Items that sampling removed.
    """

    payload: bytes = field(repr=False)
    items: int
    left_out: int = 0

    def replaced(self, payload: bytes) -> Applied:
        """The same with other bytes."""
        return replace(self, payload=payload)


class Policy:
    """Pure: holds no state, may be used by any thread.

    Args:
        percentage: Share of the traces that is kept, 0 to 100.
        content: ``keep``, ``drop`` or ``truncate: N``.
    """

    def __init__(self, *, percentage: float = 100.0, content: str = "keep") -> None:
        self._sampling = Options(sample_rate=percentage / 100.0)
        self._all = percentage >= 100.0
        self._keeps = content == "keep"
        # Bytes of each text that stay; ``None``: none of it does, not even the attribute.
        self._limit = int(content.partition(":")[2]) if content.startswith("truncate") else None

    def apply(self, signal: Signal, payload: bytes, items: int) -> Applied:
        """The policy's result for a request of ``items`` items.

        Raises:
            PayloadError: The payload cannot be read, so that it must not go on.
        """
        rewrites = not self._keeps and any(hint in payload for hint in HINTS)
        if self._all and not rewrites:
            return Applied(payload, items)
        request = parse(signal, payload)
        left_out = 0
        if not self._all:
            items, left_out = remove_items(signal, request, self._unwanted)
        changed = rewrites and items > 0 and self._rewrite(signal, request)
        return Applied(request.SerializeToString() if changed or left_out else payload, items, left_out)

    def _unwanted(self, item: Any) -> bool:
        trace_id = item.trace_id
        return any(trace_id) and not self._sampling.samples(trace_id)

    def _rewrite(self, signal: Signal, request: Any) -> bool:
        """Applies the content policy in place; whether anything changed."""
        rewrite = self._rewrite_span if signal is Signal.TRACES else self._rewrite_record
        changed = False
        for scope, items in scopes_of(signal, request):
            for item in items:
                changed |= rewrite(item, scope.name)
        return changed

    def _rewrite_span(self, span: Any, scope: str) -> bool:
        genai = looks_genai(scope, (pair.key for pair in span.attributes), (event.name for event in span.events))
        changed = self._rewrite_attributes(span.attributes, genai) | self._rewrite_parameters(span.attributes)
        for event in span.events:
            if event.name != EXCEPTION:
                changed |= self._rewrite_attributes(event.attributes, genai or event.name.startswith("gen_ai."), event.name)
        return changed

    def _rewrite_record(self, record: Any, scope: str) -> bool:
        name = record.event_name or next((p.value.string_value for p in record.attributes if p.key == "event.name"), "")
        genai = name.startswith("gen_ai.") or looks_genai(scope, (pair.key for pair in record.attributes))
        changed = self._rewrite_attributes(record.attributes, genai, name)
        if genai and record.HasField("body"):
            changed |= self._shorten(record.body)
        return changed

    def _rewrite_attributes(self, attributes: Any, genai: bool, event: str = "") -> bool:
        message = is_message(event)
        found = [
            index
            for index, pair in enumerate(attributes)
            if _is_content(holds(pair.key, genai), pair.value)
            or (message and pair.value.HasField("string_value") and speaks(pair.key))
        ]
        if self._limit is None:
            for index in reversed(found):
                del attributes[index]
            return bool(found)
        changed = False
        for index in found:
            if not is_structure(attributes[index].key):
                changed |= self._shorten(attributes[index].value)
        return changed

    def _rewrite_parameters(self, attributes: Any) -> bool:
        """Takes the content out of parameters that are one JSON object: they may hold instructions and tools."""
        changed = False
        for index in range(len(attributes) - 1, -1, -1):
            pair = attributes[index]
            if pair.key not in PARAMETERS or not pair.value.string_value:
                continue
            text = without_content(pair.value.string_value, self._limit)
            if text is None:
                changed = True
                del attributes[index]
            elif text != pair.value.string_value:
                changed = True
                pair.value.string_value = text
        return changed

    def _shorten(self, value: Any) -> bool:
        """Cuts every text in a value, or empties it; keys and what is structure stay."""
        kind = value.WhichOneof("value")
        if kind == "string_value":
            return self._shorten_text(value)
        if kind == "bytes_value":
            kept = value.bytes_value[: self._limit or 0]
            changed = len(kept) < len(value.bytes_value)
            value.bytes_value = kept
            return changed
        inner: list[Any] = []
        if kind == "array_value":
            inner = list(value.array_value.values)
        elif kind == "kvlist_value":
            inner = [pair.value for pair in value.kvlist_value.values if not is_structure(pair.key)]
        changed = False
        for item in inner:
            changed |= self._shorten(item)
        return changed

    def _shorten_text(self, value: Any) -> bool:
        text = value.string_value
        short = "" if self._limit is None else cut(text, self._limit)
        if short == text:
            return False
        value.string_value = short
        return True


def _is_content(found: Holds, value: Any) -> bool:
    if found is Holds.TEXT:
        return value.WhichOneof("value") in ("string_value", "bytes_value", "array_value", "kvlist_value")
    return found is Holds.CONTENT
