"""The canonical model: what a GenAI span says, whatever instrumentation said it.

Two views (`views/`) turn SDK spans and OTLP spans into `SpanView`; dialect readers turn a `SpanView` into `Facts`;
the pipeline joins, places and enriches; the Langfuse writer turns the result into attributes. Messages and their
parts follow the GenAI semantic conventions. Everything here is data: no I/O, no clock, no SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias, Union

__all__ = [
    "EMPTY",
    "Blob",
    "Chat",
    "Content",
    "EventView",
    "Facts",
    "File",
    "Generic",
    "Json",
    "LogView",
    "Message",
    "ObservationType",
    "Part",
    "PromptLink",
    "Raw",
    "Reasoning",
    "SpanView",
    "Stock",
    "Text",
    "ToolCall",
    "ToolResponse",
    "Uri",
    "Usage",
    "Value",
]

Json: TypeAlias = Union[bool, int, float, str, list["Json"], dict[str, "Json"], None]  # noqa: UP007  # recursive
# An attribute's value as both views give it: OTLP arrays are lists, key-value lists are dicts.
Value: TypeAlias = Union[bool, int, float, str, bytes, list["Value"], dict[str, "Value"], None]  # noqa: UP007

EMPTY: Mapping[str, Value] = MappingProxyType({})


class ObservationType(StrEnum):
    """Langfuse's observation types (the values of ``langfuse.observation.type``)."""

    SPAN = "span"
    GENERATION = "generation"
    EVENT = "event"
    EMBEDDING = "embedding"
    AGENT = "agent"
    TOOL = "tool"
    CHAIN = "chain"
    RETRIEVER = "retriever"
    GUARDRAIL = "guardrail"
    EVALUATOR = "evaluator"

    def __init__(self, value: str) -> None:
        self.is_model_call = value in ("generation", "embedding")
        """Whether an observation of this type is one call of a model, with usage and cost of its own."""


# ---------------------------------------------------------------------------------------------- views


@dataclass(slots=True)
class EventView:
    """A span event. Made for every event and changed by nobody; freezing it would make that three times as slow."""

    name: str
    time_ns: int
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class LogView:
    """A log record that carries content for a span.

    ``origin`` is ``hook`` for the completion hook's content; ``time_ns`` is 0 where the record does not say when it was.
    """

    trace_id: bytes
    span_id: bytes
    event_name: str
    attributes: Mapping[str, Value]
    body: Value
    scope_name: str = ""
    origin: str = "log"
    time_ns: int = 0
    resource: Mapping[str, Value] = field(default_factory=lambda: EMPTY, compare=False)

    @property
    def has_content(self) -> bool:
        """Whether it may carry content: an event of the GenAI conventions. Applications' own log lines do not."""
        return self.event_name.startswith("gen_ai.")

    @property
    def size(self) -> int:
        """Estimated bytes that the record holds in memory."""
        return 200 + weigh(self.body) + weigh(dict(self.attributes))


@dataclass(slots=True)
class SpanView:
    """A span as either road gives it; ids are bytes, times nanoseconds since the epoch.

    ``parent_id`` is empty without a parent. ``contents`` are the log records and hook content that belong to the
    span, in order of arrival; the content joiner fills them in before the span is read. A view is made for every span
    and changed by nobody: it is not frozen, because that would make it three times as slow. Two things are set later:
    ``shape``, where readers keep what they know of its keys, and ``facts``, what they said, once the pipeline has asked.
    """

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    parent_remote: bool
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    events: Sequence[EventView] = ()
    status_code: int = 0
    status_message: str = ""
    scope_name: str = ""
    scope_version: str = ""
    resource: Mapping[str, Value] = field(default_factory=lambda: EMPTY)
    contents: Sequence[LogView] = ()
    shape: Any = field(default=None, init=False, compare=False, repr=False)
    facts: Facts | None = field(default=None, init=False, compare=False, repr=False)


def weigh(value: Value) -> int:
    """A rough count of the bytes that a value holds; exact for text and bytes, a guess for containers."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return 64 + sum(len(key) + weigh(item) for key, item in value.items())
    if isinstance(value, list):
        return 56 + sum(map(weigh, value))
    return 16


# ------------------------------------------------------------------------------------------- messages
# Made for every message and changed by nobody, one field aside: to freeze them would make them three times as slow.


@dataclass(slots=True)
class Text:
    """Plain text."""

    content: str


@dataclass(slots=True)
class Reasoning:
    """A model's visible reasoning."""

    content: str


@dataclass(slots=True)
class ToolCall:
    """A model's request to call a tool; ``arguments`` as given, JSON text or a JSON value."""

    id: str | None
    name: str
    arguments: Json


@dataclass(slots=True)
class ToolResponse:
    """A tool's answer to the call ``id``."""

    id: str | None
    response: Json


@dataclass(slots=True)
class Blob:
    """Inline media: ``data`` is base64 text."""

    mime_type: str
    modality: str
    data: str


@dataclass(slots=True)
class Uri:
    """Media by address."""

    uri: str
    mime_type: str
    modality: str


@dataclass(slots=True)
class File:
    """Media by a provider's file id."""

    file_id: str
    mime_type: str
    modality: str


@dataclass(slots=True)
class Generic:
    """Any other part, kept as it came."""

    value: Json


Part: TypeAlias = Text | Reasoning | ToolCall | ToolResponse | Blob | Uri | File | Generic


@dataclass(slots=True)
class Message:
    """One chat message.

    ``kept`` is for a message that is shown twice, on its own row and on the entry's: empty when that is known, its JSON text
    once it has been written, so that both rows share it. ``None`` for all others.
    """

    role: str
    parts: tuple[Part, ...]
    name: str | None = None
    finish_reason: str | None = None
    kept: str | None = field(default=None, init=False, compare=False, repr=False)


@dataclass(slots=True)
class Chat:
    """Content in messages."""

    messages: tuple[Message, ...]


@dataclass(slots=True)
class Raw:
    """Content kept as it came: JSON text or plain text."""

    text: str


Content: TypeAlias = Chat | Raw


# ---------------------------------------------------------------------------------------------- facts


@dataclass(slots=True)
class Usage:
    """Token counts as a source gives them. Made for every call and changed by nobody.

    ``input`` and ``output`` are what the source calls by these names: whether they include cache, reasoning and audio
    is decided in one place (`pipeline.usage`), by the total, the counts themselves and ``exclusive``.
    ``buckets`` are counts that already exclude each other and are named as Langfuse names them; they win.
    """

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    total: int | None = None
    exclusive: bool = False
    buckets: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class PromptLink:
    """A prompt of Langfuse's prompt management; ``version`` is an integer in text."""

    name: str
    version: str


@dataclass(slots=True, eq=False)
class Stock:
    """What the facts of many spans have in common: all that does not vary from call to call.

    Attributes:
        loose: Keys of the attributes that no reader took, in their order.
        steady: Those among them whose values are the same, with these.
        written: Where a writer keeps what it makes of the common part; ``None`` until it has.
    """

    loose: tuple[str, ...]
    steady: Mapping[str, Value]
    written: Any = None


@dataclass
class Facts:
    """What readers found in one span; ``None`` or empty means that nothing was said.

    One reader fills one ``Facts``; `dialects.merge` combines them field by field. ``consumed`` are the attribute keys
    whose content is represented by a field; all other attributes become metadata. ``noise`` is a span that gets no row;
    if it ``donates``, what it knows goes to its parent. ``first_token_after`` are seconds since the span's start.

    ``stock`` is what these facts share with those of other spans, if they were not found anew (`dialects.recall`); then
    their sets and dicts are shared as well, and changed by nobody. It is lost in a changed copy (``dataclasses.replace``).
    """

    dialect: str = ""
    recognised: bool = True
    noise: bool = False
    donates: bool = False
    type: ObservationType | None = None
    name: str | None = None
    operation: str | None = None
    provider: str | None = None
    request_model: str | None = None
    response_model: str | None = None
    response_id: str | None = None
    parameters: dict[str, Json] = field(default_factory=dict)
    input: Content | None = None
    output: Content | None = None
    system: Content | None = None
    tools: list[Json] | None = None
    usage: Usage | None = None
    cost: dict[str, float] | None = None
    started_ns: int | None = None
    first_token_ns: int | None = None
    first_token_after: float | None = None
    prompt: PromptLink | None = None
    level: str | None = None
    status_message: str | None = None
    user: str | None = None
    session: str | None = None
    conversation: str | None = None
    tags: tuple[str, ...] = ()
    trace_name: str | None = None
    workflow: str | None = None
    trace_metadata: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    release: str | None = None
    version: str | None = None
    environment: str | None = None
    public: bool | None = None
    passthrough: dict[str, Value] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    stock: Stock | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def model(self) -> str | None:
        """The model to show: what answered, else what was asked for."""
        return self.response_model or self.request_model
