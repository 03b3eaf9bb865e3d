"""What follows from the results of one request: who is asked again, when, and with what. Data only: no lock, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from otel_langfuse.counters import Counters
from otel_langfuse.sidecar.destinations.attempts import Result
from otel_langfuse.sidecar.destinations.merging import Merging
from otel_langfuse.sidecar.destinations.pending import Pending, Piece
from otel_langfuse.sidecar.destinations.retrying import Pacing

__all__ = ["Following"]

# What a server says that stumbled over a request: it may have stored a part of it.
_VAGUE = frozenset({"UNKNOWN", "INTERNAL"})


class Following:
    """Puts back what has to be sent again.

    Args:
        pending: Takes it.
        pacing: Learns how the destination answered.
        merging: Learns how much may go together.
        counters: Takes ``split_requests``.
    """

    def __init__(self, pending: Pending, pacing: Pacing, merging: Merging, counters: Counters) -> None:
        self._pending = pending
        self._pacing = pacing
        self._merging = merging
        self._counters = counters

    def follow(self, results: Sequence[Result], now: float) -> set[Piece]:
        """Follows a request at the time ``now``; which of its pieces will be sent again, whole or in parts."""
        again = {result.piece for result in results if not result.asked and self._put_off(result, now)}
        asked = [result for result in results if result.asked]
        if not asked:
            return again
        if asked[0].verdict.action == "delivered":
            self._pacing.passed()
            self._merging.passed()
        elif asked[0].verdict.action == "retry":
            again.update(self._retry(asked, now))
        elif len(asked) > 1:
            again.update(self._part(asked, now))
        elif asked[0].verdict.action == "split":
            again.update(self._halve(asked[0], now))
        else:
            self._pacing.passed()
        return again

    def _put_off(self, result: Result, now: float) -> bool:
        """Whether a piece that was not sent comes again: the journal's trouble is no reason to give up."""
        if result.verdict.action != "retry":
            return False
        result.piece.not_before = now + (result.verdict.after or 0.0)
        self._pending.wait(result.piece)
        return True

    def _retry(self, results: Sequence[Result], now: float) -> list[Piece]:
        verdict = results[0].verdict
        if verdict.ambiguous and len(results) > 1:
            self._merging.unanswered()
        pause = self._pacing.failed(verdict.after, now)
        again = [result.piece for result in results if self._pacing.again(result.piece, pause, now)]
        for piece in again:
            self._pending.wait(piece)
        return again

    def _part(self, results: Sequence[Result], now: float) -> list[Piece]:
        """What was refused together: each goes alone, so that one bad entry costs no other."""
        pieces = [result.piece for result in results]
        if results[0].verdict.action == "split":
            self._merging.refused(sum(piece.owed.entry.size for piece in pieces))
            self._pacing.refused(now)
        else:
            self._pacing.passed()
        for piece in pieces:
            piece.outcome_unknown |= results[0].verdict.status in _VAGUE
        self._pending.part(pieces)
        self._counters.count("split_requests")
        return pieces

    def _halve(self, result: Result, now: float) -> list[Piece]:
        self._pacing.refused(now)
        if result.items <= 1:
            return []
        self._pending.split(result.piece, result.start, result.stop)
        self._counters.count("split_requests")
        return [result.piece]
