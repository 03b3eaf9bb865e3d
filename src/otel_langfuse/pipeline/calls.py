"""One call, one generation: two spans about the same model call become one generation and one plain span.

Two generations are the same call only if their scopes differ (or the pair is in ``LISTED``) and either their response
ids are equal, or one is the other's ancestor with no other generation between and an equal model. Spans of
different traces are the same call only on equal response ids. Two real calls are never merged: an outer span with
several matching calls below is an aggregate, not a call.

A generation waits for a partner only while its nearest generation ancestor is open, at most the join bound. What
was on either span is not lost: the survivor takes over what it lacks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TypeAlias

from otel_langfuse.dialects.merge import merge
from otel_langfuse.model import Facts, ObservationType, SpanView, Usage
from otel_langfuse.pipeline.row import NO_NOTE
from otel_langfuse.pipeline.tree import CallRef, Node

__all__ = ["DESCRIBING", "DETACHED", "LISTED", "Call", "Calls"]

# Pairs of (scope, scope) prefixes that describe one call although their scopes are equal; outer first.
LISTED: tuple[tuple[str, str], ...] = (("openlit.", "openlit."),)

# Scopes whose spans are not made current, or trace the client itself: (scope of the one that ends first, scopes of the
# other). The two may stand in different traces; they are joined by response id, so the first waits while a partner is open.
DETACHED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "com.anthropic.sdk.python",
        ("opentelemetry.instrumentation.anthropic", "opentelemetry.instrumentation.genai.", "openinference.", "openlit."),
    ),
    ("openinference.instrumentation.", ("openinference.instrumentation.langchain",)),
    (
        "opentelemetry.instrumentation.openai",
        ("openinference.instrumentation.langchain", "opentelemetry.instrumentation.langchain"),
    ),
    ("opentelemetry.instrumentation.genai.", ("openinference.instrumentation.langchain",)),
)
DESCRIBING = tuple(sorted({scope for _, others in DETACHED for scope in others}))
"""Prefixes of scopes whose spans may describe the calls of others again."""

_CLIENTS = ("com.anthropic.sdk.python",)  # SDKs that trace themselves
_MAX_REMEMBERED = 20_000
_MAX_WAITING = 10_000
_MAX_SCOPES = 8
_LONGEST = 256  # characters of names that are remembered

Key: TypeAlias = tuple[bytes, bytes]  # trace id and span id: span ids alone need not be unique
_Known: TypeAlias = tuple[bytes, bytes, str]  # trace id, span id and scope: plain values, which cost no garbage collection


@dataclass(slots=True)
class Call:
    """A model call that waits, or whose partner is found.

    Attributes:
        ref: What to remember of it.
        deadline: When its wait is over.
    """

    node: Node
    view: SpanView
    facts: Facts
    ref: CallRef
    deadline: float

    @property
    def key(self) -> Key:
        """Trace id and span id."""
        return self.view.trace_id, self.view.span_id


class Calls:
    """Decides which generations are calls of their own; emits each exactly once.

    Args:
        emit: Writes a span: ``emit(node, view, facts, note)``; nobody changes the note.
        generation_above: The nearest generation ancestor of a node, open or ended.
        open_scopes: Scopes among `DESCRIBING` of the spans that are open now, in any trace.
        share: Gives the context of one node to another, in a different trace.
        foretell: Told of a call that is held: what its ancestors need to know of it before it is written.
        bound: Seconds that a call waits for its outer span.
    """

    def __init__(
        self,
        emit: Callable[[Node, SpanView, Facts, Mapping[str, str]], None],
        generation_above: Callable[[Node], Node | None],
        open_scopes: Callable[[], Iterable[str]],
        share: Callable[[Node, Node], None],
        foretell: Callable[[Node, SpanView, Facts], None],
        bound: float,
    ) -> None:
        self._emit = emit
        self._generation_above = generation_above
        self._open_scopes = open_scopes
        self._share = share
        self._foretell = foretell
        self._bound = bound
        self._waiting: OrderedDict[Key, Call] = OrderedDict()
        self._below: dict[Node, list[Key]] = {}
        # By response id: the call; and if there are more than its own, the scopes that have described it.
        self._by_id: OrderedDict[str, _Known] = OrderedDict()
        self._described: dict[str, set[str]] = {}
        self.merged = 0

    def settle(self, node: Node, view: SpanView, facts: Facts, now: float) -> None:
        """Takes an ended generation: writes it, holds it for its outer span, or merges it."""
        ref = _ref_of(view, facts)
        if node.calls_below or node in self._below:
            call = Call(node, view, facts, ref, now + self._bound)
            inner = [self._waiting.pop(key) for key in self._below.pop(node, ()) if key in self._waiting]
            matching = [other for other in inner if same_call(ref, other.ref)]
            written = [other for other in node.calls_below if same_call(ref, other)]
            if inner or written:
                self._settle_outer(call, inner, matching, written)
                return
        twin = self._twin_by_id(ref)
        if twin is not None:
            self._settle_twin(Call(node, view, facts, ref, now + self._bound), twin)
        else:
            self._settle_inner(node, view, facts, ref, now + self._bound)

    def release(self, now: float | None = None) -> None:
        """Writes the calls whose wait is over; all of them without ``now`` (flush, shutdown, pressure)."""
        while self._waiting:
            call = next(iter(self._waiting.values()))
            if now is not None and call.deadline > now and len(self._waiting) <= _MAX_WAITING:
                return
            self._waiting.popitem(last=False)
            self._write_call(call)
        self._below.clear()  # nobody waits any more

    def release_trace(self, trace_id: bytes) -> None:
        """Writes the waiting calls of one trace."""
        for key in [key for key in self._waiting if key[0] == trace_id]:
            self._write_call(self._waiting.pop(key))

    @property
    def waiting(self) -> int:
        """Number of calls held."""
        return len(self._waiting)

    # ------------------------------------------------------------------------------------- decisions

    def _settle_outer(self, call: Call, inner: list[Call], matching: list[Call], written: list[CallRef]) -> None:
        if len(matching) + len(written) > 1:
            self._write_all(inner)
            self._write_duplicate(call, None, {"repeats_calls": str(len(matching) + len(written))})
        elif matching:
            partner = matching[0]
            self._write_all(other for other in inner if other is not partner)
            survivor, other = (partner, call) if _richer(partner.facts, call.facts) else (call, partner)
            self._write_pair(survivor, other)
        elif written:
            self._write_all(inner)
            self._write_duplicate(call, None, {"duplicate_of": written[0].span_id.hex()})
        else:
            self._write_all(inner)
            self._settle_inner(call.node, call.view, call.facts, call.ref, call.deadline)

    def _settle_twin(self, call: Call, twin: Key) -> None:
        held = self._waiting.pop(twin, None)
        if held is not None:
            # On equal content the one that stands deeper in its tree shows where the call belongs.
            better = (_content(call.facts), _depth(call.node)) > (_content(held.facts), _depth(held.node))
            survivor, other = (call, held) if better else (held, call)
            self._write_pair(survivor, other)
        else:
            self._write_duplicate(call, None, {"duplicate_of": twin[1].hex()})

    def _settle_inner(self, node: Node, view: SpanView, facts: Facts, ref: CallRef, deadline: float) -> None:
        """A call that is not known yet: most are written at once, and no object is made for them."""
        above = self._generation_above(node)
        if above is not None and above.scope != view.scope_name:
            call = Call(node, view, facts, ref, deadline)
            if above.open:
                self._hold(call)
                self._below.setdefault(above, []).append(call.key)
                return
            if above.call is not None and same_call(ref, above.call) and not above.calls_below:
                self._write_duplicate(call, None, {"duplicate_of": above.span_id.hex()})
                return
        if ref.response_id is not None and self._partner_due(node, ref.scope):
            self._hold(Call(node, view, facts, ref, deadline))
            return
        self._write(node, view, facts, ref)

    def _hold(self, call: Call) -> None:
        self._waiting[call.key] = call
        self._remember(call.ref)
        self._foretell(call.node, call.view, call.facts)

    def _partner_due(self, node: Node, scope: str) -> bool:
        """Whether a span is open that is known to describe the calls of this scope again, detached from them.

        A call with a place in a tree has its partner in the same trace; one that is a trace of its own may have it anywhere.
        """
        others = _partners(scope)
        if not others:
            return False
        candidates = self._open_scopes() if node.is_entry else node.trace.open_scopes
        return any(other != scope and other.startswith(others) for other in candidates)

    def _twin_by_id(self, ref: CallRef) -> Key | None:
        if ref.response_id is None:
            return None
        other = self._by_id.get(ref.response_id)
        if other is None:
            return None
        trace_id, span_id, scope = other
        scopes = self._described.get(ref.response_id) or {scope}
        # A scope that has described this call before describes another one now, under a reused id.
        if (ref.scope in scopes and not _scopes_allow(scope, ref.scope)) or len(scopes) >= _MAX_SCOPES:
            return None
        scopes.add(ref.scope)
        self._described[ref.response_id] = scopes
        return trace_id, span_id

    # ---------------------------------------------------------------------------------------- writing

    def _write_all(self, calls: Iterable[Call]) -> None:
        for call in calls:
            self._write_call(call)

    def _write_call(self, call: Call) -> None:
        self._write(call.node, call.view, call.facts, call.ref)

    def _write(self, node: Node, view: SpanView, facts: Facts, ref: CallRef) -> None:
        self._remember(ref)
        node.call = ref
        ancestor = node.parent
        while ancestor is not None:
            ancestor.remember_call(ref)
            if ancestor.type is not None and ancestor.type.is_model_call:
                break
            ancestor = ancestor.parent
        self._emit(node, view, facts, NO_NOTE)

    def _write_pair(self, survivor: Call, other: Call) -> None:
        united = merge([survivor.facts, other.facts])
        united.consumed = survivor.facts.consumed
        united.metadata = dict(survivor.facts.metadata)
        united.usage = _better_usage(survivor, other)
        self._write_call(replace(survivor, facts=united, ref=_ref_of(survivor.view, united)))
        if survivor.view.trace_id != other.view.trace_id:
            self._share(survivor.node, other.node)
        self._write_duplicate(other, united, {"duplicate_of": survivor.view.span_id.hex()})

    def _write_duplicate(self, call: Call, survivor: Facts | None, note: dict[str, str]) -> None:
        """The same call again: a plain span, without content that the survivor shows too."""
        self.merged += 1
        facts = replace(
            call.facts,
            type=ObservationType.SPAN,
            request_model=None,
            response_model=None,
            usage=None,
            cost=None,
            first_token_ns=None,
            prompt=None,
            parameters={},
            tools=None,
        )
        if survivor is not None:
            facts.input = None if survivor.input is not None else facts.input
            facts.output = None if survivor.output is not None else facts.output
            facts.system = None
        self._emit(call.node, call.view, facts, note)

    def _remember(self, ref: CallRef) -> None:
        if ref.response_id is not None:
            self._by_id.setdefault(ref.response_id, (ref.trace_id, ref.span_id, ref.scope))
            if len(self._by_id) > _MAX_REMEMBERED:
                oldest, _ = self._by_id.popitem(last=False)
                self._described.pop(oldest, None)


def same_call(one: CallRef, other: CallRef) -> bool:
    """Whether two nested spans are the same call: different scopes, and no contradiction in ids, and an equal model."""
    if not _scopes_allow(one.scope, other.scope):
        return False
    if one.response_id is not None and other.response_id is not None:
        return one.response_id == other.response_id
    models, others = _models(one.asked, one.answered), _models(other.asked, other.answered)
    return not models or not others or bool(models & others)


def _ref_of(view: SpanView, facts: Facts) -> CallRef:
    asked, answered = facts.request_model or "", facts.response_model or ""
    return CallRef(view.trace_id, view.span_id, view.scope_name, asked, answered, facts.response_id)


def _models(asked: str, answered: str) -> frozenset[str]:
    """Models' names without the providers before them."""
    return _short(asked, answered) if len(asked) + len(answered) <= _LONGEST else _short.__wrapped__(asked, answered)


@lru_cache(maxsize=256)
def _short(*names: str) -> frozenset[str]:
    return frozenset([name.rsplit("/", 1)[-1] for name in names if name])


def _partners(scope: str) -> tuple[str, ...]:
    """Scopes whose spans may describe the calls of ``scope`` again, detached from them."""
    return _listed(scope) if len(scope) <= _LONGEST else ()


@lru_cache(maxsize=256)
def _listed(scope: str) -> tuple[str, ...]:
    return next((others for first, others in DETACHED if scope.startswith(first)), ())


def _depth(node: Node) -> int:
    return sum(1 for _ in node.ancestors())


def _scopes_allow(one: str, other: str) -> bool:
    return one != other or any(one.startswith(a) and other.startswith(b) for a, b in LISTED)


def _richer(one: Facts, other: Facts) -> bool:
    """Whether ``one`` carries content that ``other`` lacks altogether."""
    return _content(one) > _content(other)


def _content(facts: Facts) -> int:
    return (facts.input is not None) + (facts.output is not None)


def _better_usage(survivor: Call, other: Call) -> Usage | None:
    """The client's own count where it traces itself, else the one that counts more things."""
    for call in (survivor, other):
        if call.view.scope_name.startswith(_CLIENTS) and call.facts.usage is not None:
            return call.facts.usage
    return _fuller(survivor.facts.usage, other.facts.usage)


def _fuller(one: Usage | None, other: Usage | None) -> Usage | None:
    """The usage that counts more things; the first on a tie."""
    if one is None or other is None:
        return one or other

    def weight(usage: Usage) -> int:
        if usage.buckets is not None:
            return len(usage.buckets)
        return sum(bool(getattr(usage, part.name)) for part in fields(usage))

    return other if weight(other) > weight(one) else one
