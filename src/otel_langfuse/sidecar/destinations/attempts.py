"""One attempt to send one piece: fetch its bytes, apply the policy, tell the journal, send. No queue, no waiting.

Bytes are made anew for each attempt and are the same each time: the policy is a function of the payload, and a range is
taken out of what it makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from otel_langfuse.counters import Counters
from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.destinations.payloads import take_items
from otel_langfuse.sidecar.destinations.pending import Piece
from otel_langfuse.sidecar.destinations.policy import Applied, Policy
from otel_langfuse.sidecar.destinations.sender import Sender
from otel_langfuse.sidecar.destinations.verdicts import Verdict
from otel_langfuse.sidecar.entry import Journal, RefusedError

__all__ = ["Attempts", "Result", "given_up"]

_OUT_OF_THINGS = 1.0
_LEAST_TIMEOUT = 0.05


@dataclass(frozen=True, slots=True)
class Result:
    """A verdict on a piece, and the range of items that it is about.

    Attributes:
        verdict: What became of it.
        start: First item, counted after the policy.
        stop: End of the range.
        asked: Whether the backend gave the verdict.
    """

    verdict: Verdict
    start: int
    stop: int
    asked: bool = False

    @property
    def items(self) -> int:
        """Number of items."""
        return self.stop - self.start


def given_up(piece: Piece, reason: str = "", message: str = "") -> Result:
    """A result that no backend was asked for; without a reason the items have been counted already."""
    stop = piece.owed.left if piece.stop is None else piece.stop
    return Result(Verdict("permanent", reason, message), piece.start, stop)


def _put_off(piece: Piece, message: str, after: float) -> Result:
    """A result that no backend was asked for: the piece stays as it is and comes again ``after`` seconds."""
    return replace(given_up(piece), verdict=Verdict("retry", "journal_failed", message, after))


class Attempts:
    """Makes attempts; used by several threads.

    Args:
        name: The destination.
        sender: Sends.
        journal: Holds the bytes.
        policy: What becomes of them first.
        timeout: Seconds for one request.
        notes: Whether the journal is told before an entry's first send.
        counters: Counts requests, bytes, retries and what sampling leaves out.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        sender: Sender,
        journal: Journal,
        policy: Policy,
        *,
        timeout: float,
        notes: bool,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._sender = sender
        self._journal = journal
        self._policy = policy
        self._timeout = timeout
        self._notes = notes
        self._counters = counters
        self._clock = clock

    def make(self, piece: Piece, deadline: float) -> Result:
        """Sends a piece once, or finds that nothing of it is to be sent; ``deadline`` ends every attempt."""
        entry = piece.owed.entry
        try:
            payload = self._journal.payload(entry)
        except RefusedError as error:
            return _put_off(piece, f"{self._name}: {entry.items} spans or log records wait: {error}", error.retry_after)
        if payload is None:
            return given_up(piece)  # The journal lost it, and has counted it.
        try:
            applied, start, stop = self._applied(piece, payload)
        except PayloadError as error:
            message = f"{self._name}: the policy cannot be applied to what cannot be read: {error}."
            return given_up(piece, "unreadable", message)
        if stop == start:
            return given_up(piece)
        self._announce(piece, stop - start, len(applied.payload))
        timeout = max(min(self._timeout, deadline - self._clock()), _LEAST_TIMEOUT)
        try:
            verdict = self._sender.send(entry.signal, applied.payload, stop - start, timeout)
        except OSError as error:
            # The machine has run out of something, descriptors for instance. That passes; the data must not go with it.
            piece.outcome_unknown = True
            message = f"{self._name}: {entry.items} spans or log records wait: {error.strerror or type(error).__name__}."
            return _put_off(piece, message, _OUT_OF_THINGS)
        piece.attempts += 1
        piece.outcome_unknown = verdict.ambiguous
        return Result(verdict, start, stop, asked=True)

    def _applied(self, piece: Piece, payload: bytes) -> tuple[Applied, int, int]:
        """The bytes of a piece, and its range."""
        owed, entry = piece.owed, piece.owed.entry
        applied = self._policy.apply(entry.signal, payload, entry.items)
        if piece.stop is not None:
            return applied.replaced(take_items(entry.signal, applied.payload, piece.start, piece.stop)), piece.start, piece.stop
        if applied.left_out and owed.left == entry.items:
            owed.left = applied.items
            self._counters.count("not_sampled", applied.left_out)
        return applied, 0, applied.items

    def _announce(self, piece: Piece, items: int, size: int) -> None:
        """Notes in journal and counts that a send begins."""
        if self._notes and not piece.owed.noted:
            try:
                self._journal.attempt(piece.owed.entry, self._name)
            except RefusedError:
                # A full disk gets room again by what leaves; only a crash now would resend without being counted.
                self._counters.count("attempts_not_noted")
        piece.owed.noted = True
        self._counters.count("requests")
        self._counters.count("bytes_sent", size)
        if piece.attempts:
            self._counters.count("retries")
        if piece.outcome_unknown:
            self._counters.count("ambiguous_resend", items)
