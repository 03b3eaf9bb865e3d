"""The facts that the demo promises, each checked on what the receivers really got.

A check that needs something the run does not have (a copy that went to a remote server, the stub's bill while the
real API answers) is left out rather than passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from otel_langfuse.demo.rows import Observation, Row, observe

__all__ = ["Check", "Seen", "check", "is_noise"]

_NOISE = ("asgi", "fastapi", "httpx", "sqlite3", "dbapi", "urllib3", "requests")
_CALLS = ("generation", "embedding")
_LINK = "langfuse.trace.url"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run of the demo saw.

    ``tempo`` or ``langfuse`` is ``None`` when that copy went to a remote server. ``calls`` and ``tokens`` are what the
    stub counted, ``None`` when the real API answered. ``answered`` are the trace ids that the app gave back to the
    runner, which asked as ``user`` in ``session``; others may have asked too.
    """

    tempo: Sequence[Row] | None
    langfuse: Sequence[Row] | None
    answered: frozenset[str]
    user: str
    session: str
    calls: int | None = None
    tokens: int | None = None
    observations: Sequence[Observation] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "observations", [observe(row) for row in self.langfuse or ()])


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, whether it was kept, and the numbers behind it."""

    promise: str
    kept: bool
    detail: str


def is_noise(row: Row) -> bool:
    """Whether the span is of the web server, an HTTP client or a database."""
    return row.scope.rsplit(".", 1)[-1] in _NOISE or any(f".{word}." in f"{row.scope}." for word in _NOISE)


def check(seen: Seen) -> list[Check]:
    """All checks that this run allows, in the order in which they are told."""
    checks: list[Check] = []
    if seen.tempo is not None and seen.langfuse is not None:
        checks.extend(_both(seen, seen.tempo, seen.langfuse))
    for name, rows in (("Tempo", seen.tempo), ("Langfuse", seen.langfuse)):
        if rows is not None:
            checks.append(_once(name, rows))
    if seen.langfuse is not None:
        checks.extend(_langfuse(seen, seen.langfuse))
    if seen.tempo is not None:
        linked = [row for row in seen.tempo if row.attributes.get(_LINK)]
        whole = seen.answered <= _traces(linked)
        checks.append(Check("Tempo's copy links to Langfuse", whole, f"{_LINK} on {len(linked)} spans"))
    return checks


def _both(seen: Seen, tempo: Sequence[Row], langfuse: Sequence[Row]) -> Iterator[Check]:
    ours, theirs = _traces(langfuse), _traces(tempo)
    same = bool(ours) and seen.answered <= ours <= theirs
    yield Check("Same trace ids in both copies", same, f"{len(ours)} in Langfuse, {len(theirs)} in Tempo")
    missing = {row.span_id for row in langfuse} - {row.span_id for row in tempo}
    known = len(langfuse) - len(missing)
    yield Check("Every Langfuse span id is in Tempo", not missing and known > 0, f"{known} of {len(langfuse)}")


def _once(name: str, rows: Sequence[Row]) -> Check:
    times = Counter((row.trace_id, row.span_id) for row in rows)
    twice = sum(1 for count in times.values() if count > 1)
    return Check(f"Each span once in {name}", bool(rows) and not twice, f"{len(rows)} spans, {twice} more than once")


def _langfuse(seen: Seen, rows: Sequence[Row]) -> Iterator[Check]:
    noise = [row for row in rows if row.parent_id and is_noise(row)]
    yield Check("No HTTP or database noise in Langfuse", bool(rows) and not noise, f"{len(noise)} such rows below the entry")
    roots = [row for row in rows if not row.parent_id]
    orphans = {row.parent_id for row in rows if row.parent_id} - {row.span_id for row in rows}
    whole = bool(rows) and len(roots) == len(_traces(rows)) and not orphans
    yield Check("One whole tree in Langfuse", whole, f"{len(roots)} root(s), {len(orphans)} missing parents")
    named = [row for row in seen.observations if _is_named(seen, row)]
    detail = f"{len(named)} of {len(rows)} rows; the demo asked as {seen.user} in {seen.session}"
    yield Check("User and session on every row", bool(rows) and len(named) == len(rows), detail)
    yield from _counts(seen)


def _counts(seen: Seen) -> Iterator[Check]:
    calls = [row for row in seen.observations if row.type in _CALLS]
    sums = all(row.total == row.tokens("input") + row.tokens("output") for row in calls if len(row.usage) > 1)
    yield Check("Token buckets add up to the total", bool(calls) and sums, f"on {len(calls)} calls of models")
    failed = [row for row in calls if row.level == "ERROR"]
    free = bool(failed) and all(row.cost == 0 and not row.total for row in failed)
    yield Check("Failed calls are errors and cost nothing", free, f"{len(failed)} of {len(calls)} calls failed")
    if seen.calls is not None:
        yield Check("One row for each call of a model", len(calls) == seen.calls, f"{len(calls)} of {seen.calls}")
    if seen.tokens is not None:
        total = sum(row.total for row in seen.observations)
        detail = f"{total:,} in Langfuse, {seen.tokens:,} on the stub's bill"
        yield Check("Tokens are counted once", total == seen.tokens, detail)


def _is_named(seen: Seen, row: Observation) -> bool:
    if row.row.trace_id in seen.answered:
        return (row.user, row.session) == (seen.user, seen.session)
    return bool(row.user and row.session)


def _traces(rows: Iterable[Row]) -> frozenset[str]:
    return frozenset(row.trace_id for row in rows)
