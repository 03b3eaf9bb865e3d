"""The completion hook of the official GenAI instrumentations: prompts reach Langfuse and never the other backend.

Source: opentelemetry-util-genai, ``CompletionHook``. It is called before the span ends, also with content capture off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from otel_langfuse.model import LogView, Value, weigh
from otel_langfuse.pipeline import Pipeline
from otel_langfuse.sdk import registry
from otel_langfuse.sdk.processor import report
from otel_langfuse.views.sdk import plain

__all__ = ["LangfuseCompletionHook"]

_EVENT = "gen_ai.client.inference.operation.details"


class LangfuseCompletionHook:
    """Hands the content of GenAI calls to the engines of this process. Never raises."""

    def on_completion(
        self,
        *,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        system_instruction: Sequence[Any],
        tool_definitions: Sequence[Any] | None = None,
        span: Any = None,
        log_record: Any = None,
    ) -> None:
        """Queues the content for the span; content of spans that are not recorded is ignored."""
        try:
            if span is None or not span.is_recording():
                return
            content = {
                "gen_ai.input.messages": inputs,
                "gen_ai.output.messages": outputs,
                "gen_ai.system_instructions": system_instruction,
                "gen_ai.tool.definitions": tool_definitions,
            }
            held = {key: list(value) for key, value in content.items() if value}
            size = 256 + sum(_weight(item) for items in held.values() for item in items)
            job = _HookContent(span.get_span_context(), held)
            for engine in registry.engines:
                engine.submit(job, size)
        except Exception as error:  # noqa: BLE001  # border to the host
            report("the completion hook", error)


class _HookContent:
    """A call's content, for the worker."""

    __slots__ = ("_content", "_context")

    def __init__(self, context: Any, content: dict[str, list[Any]]) -> None:
        self._context = context
        self._content = content

    def __call__(self, pipeline: Pipeline) -> None:
        context = self._context
        attributes = {key: [_structured(item) for item in items] for key, items in self._content.items()}
        pipeline.content(
            LogView(
                trace_id=context.trace_id.to_bytes(16, "big"),
                span_id=context.span_id.to_bytes(8, "big"),
                event_name=_EVENT,
                attributes=attributes,
                body=None,
                origin="hook",
            )
        )


def _weight(item: Any) -> int:
    """Bytes that a message holds, estimated from what its parts can carry."""
    parts = getattr(item, "parts", None) or (item,)
    return 128 + sum(_part_weight(part) for part in parts)


def _part_weight(part: Any) -> int:
    values = (getattr(part, name, None) for name in ("content", "response", "arguments", "data", "result"))
    return sum(weigh(plain(value)) for value in values if value is not None)


def _structured(item: Any) -> Value:
    return plain(asdict(item) if is_dataclass(item) and not isinstance(item, type) else item)
