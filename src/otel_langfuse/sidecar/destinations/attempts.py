"""One attempt to send pieces in one request: fetch their bytes, apply the policy, tell the journal, send. No waiting.

Bytes are made anew for each attempt and are the same each time: the policy is a function of the payload, and a range is
taken out of what it makes. Those of several pieces are sent one after another, which is one request again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        piece: The piece.
        verdict: What became of it.
        start: First item, counted after the policy.
        stop: End of the range.
        asked: Whether the backend gave the verdict; then it is that on the whole request, but for ``rejected``.
    """

    piece: Piece
    verdict: Verdict
    start: int
    stop: int
    asked: bool = False

    @property
    def items(self) -> int:
        """Number of items."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class _Part:
    """The bytes of a piece, and its range."""

    piece: Piece
    payload: bytes
    start: int
    stop: int


def given_up(piece: Piece, reason: str = "", message: str = "") -> Result:
    """A result that no backend was asked for; without a reason the items have been counted already."""
    stop = piece.owed.left if piece.stop is None else piece.stop
    return Result(piece, Verdict("permanent", reason, message), piece.start, stop)


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

    def make(self, pieces: Sequence[Piece], deadline: float) -> list[Result]:
        """Sends pieces of one signal once, in one request; a result for each, also if nothing of it is to be sent.

        ``deadline`` ends every attempt.
        """
        results: list[Result] = []
        parts: list[_Part] = []
        for piece in pieces:
            found = self._part(piece)
            if isinstance(found, Result):
                results.append(found)
            else:
                parts.append(found)
        if parts:
            results += self._send(parts, deadline)
        return results

    def _part(self, piece: Piece) -> _Part | Result:
        """What is to be sent of a piece, or why nothing is."""
        entry = piece.owed.entry
        try:
            payload = self._journal.payload(entry)
        except RefusedError as error:
            return _put_off(piece, f"{self._name}: {entry.items} spans or log records wait: {error}", error.retry_after)
        if payload is None:
            return given_up(piece)  # The journal lost it, and has counted it.
        try:
            part = self._applied(piece, payload)
        except PayloadError as error:
            message = f"{self._name}: the policy cannot be applied to what cannot be read: {error}."
            return given_up(piece, "unreadable", message)
        return given_up(piece) if part.stop == part.start else part

    def _applied(self, piece: Piece, payload: bytes) -> _Part:
        owed, entry = piece.owed, piece.owed.entry
        applied: Applied = self._policy.apply(entry.signal, payload, entry.items)
        if piece.stop is not None:
            taken = take_items(entry.signal, applied.payload, piece.start, piece.stop)
            return _Part(piece, taken, piece.start, piece.stop)
        if applied.left_out and owed.left == entry.items:
            owed.left = applied.items
            self._counters.count("not_sampled", applied.left_out)
        return _Part(piece, applied.payload, 0, applied.items)

    def _send(self, parts: Sequence[_Part], deadline: float) -> list[Result]:
        items = sum(part.stop - part.start for part in parts)
        payload = parts[0].payload if len(parts) == 1 else b"".join([part.payload for part in parts])
        self._announce(parts, len(payload))
        timeout = max(min(self._timeout, deadline - self._clock()), _LEAST_TIMEOUT)
        try:
            verdict = self._sender.send(parts[0].piece.owed.entry.signal, payload, items, timeout)
        except OSError as error:
            # The machine has run out of something, descriptors for instance. That passes; the data must not go with it.
            message = f"{self._name}: {items} spans or log records wait: {error.strerror or type(error).__name__}."
            for part in parts:
                part.piece.outcome_unknown = True
            return [_put_off(part.piece, message, _OUT_OF_THINGS) for part in parts]
        results = []
        left = verdict.rejected
        for part in parts:
            part.piece.attempts += 1
            part.piece.outcome_unknown = verdict.ambiguous
            # The backend does not say of which entry the rejected items are; what counts is their number.
            rejected = min(left, part.stop - part.start)
            left -= rejected
            own = verdict if rejected == verdict.rejected else replace(verdict, rejected=rejected)
            results.append(Result(part.piece, own, part.start, part.stop, asked=True))
        return results

    def _announce(self, parts: Sequence[_Part], size: int) -> None:
        """Notes in journal and counts that a send begins."""
        unnoted = [part.piece.owed for part in parts if not part.piece.owed.noted]
        if self._notes and unnoted:
            try:
                self._journal.attempt([owed.entry for owed in unnoted], self._name)
            except RefusedError:
                # A full disk gets room again by what leaves; only a crash now would resend without being counted.
                self._counters.count("attempts_not_noted", len(unnoted))
        for owed in unnoted:
            owed.noted = True
        self._counters.count("requests")
        self._counters.count("bytes_sent", size)
        if any(part.piece.attempts for part in parts):
            self._counters.count("retries")
        self._counters.count("ambiguous_resend", sum(part.stop - part.start for part in parts if part.piece.outcome_unknown))
