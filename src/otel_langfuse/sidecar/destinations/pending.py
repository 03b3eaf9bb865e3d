"""What an OTLP destination still owes: entries, and the pieces of those that were too large. Data only: no lock, no clock.

An entry is one piece until the backend says that it is too large; then it is ranges of items, of which no bytes are kept:
each attempt takes them out of the entry again. Entries that were never sent may go together, later ones after earlier
ones. Bytes are counted by the entry's size from ``add`` until its last piece has left, so that with a journal on disk the
bound is on what waits there.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from otel_langfuse.sidecar.entry import Entry

__all__ = ["NEVER", "Owed", "Pending", "Piece"]

NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Owed:
    """An entry that this destination has to settle.

    Attributes:
        entry: The entry.
        ticket: Ascending in order of arrival.
        left: Items that are neither delivered nor dropped nor left out.
        pieces: Those of its pieces that have not left.
        noted: Whether the journal knows that a send was begun.
    """

    entry: Entry
    ticket: int
    left: int
    pieces: list[Piece] = field(default_factory=list)
    noted: bool = False


@dataclass(slots=True, eq=False)
class Piece:
    """What one request sends.

    Attributes:
        owed: The entry that it comes from.
        start: First item of the range.
        stop: End of the range; ``None`` for the whole entry.
        attempts: Times that it was sent by this process.
        outcome_unknown: Whether the last send may have been stored although no success was seen.
        since: When it first failed.
        not_before: Earliest time of the next attempt.
        alone: Whether it is not to be merged with others (any more).
    """

    owed: Owed
    start: int = 0
    stop: int | None = None
    attempts: int = 0
    outcome_unknown: bool = False
    since: float | None = None
    not_before: float = 0.0
    alone: bool = True


class Pending:
    """A queue bounded in bytes. The caller holds a lock.

    Pieces go in order of arrival. One that waits lets others pass; when its time has come it is first.

    Args:
        limit: Bytes that are held at most. Entries that the caller adds beyond it, after a restart with a smaller bound,
            are held all the same.

    Attributes:
        bytes: Bytes held.
        mergeable: Bytes of entries that are ready and may go together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.bytes = 0
        self.mergeable = 0
        self._ready: deque[Piece] = deque()
        self._waiting: list[tuple[float, int, Piece]] = []
        self._order = itertools.count()
        self._open: OrderedDict[int, Owed] = OrderedDict()
        self._last = -1

    def __len__(self) -> int:
        """Entries held: ready, waiting or being sent."""
        return len(self._open)

    def has_room(self, size: int) -> bool:
        """Whether ``size`` more bytes stay within the bound."""
        return self.bytes + size <= self._limit

    def add(self, entry: Entry, *, attempted: bool) -> None:
        """Takes an entry; ``attempted``: an earlier process may have sent it."""
        self._last += 1
        owed = Owed(entry, self._last, entry.items, noted=attempted)
        piece = Piece(owed, outcome_unknown=attempted, alone=attempted)
        owed.pieces.append(piece)
        if not attempted:
            self.mergeable += entry.size
        self._open[owed.ticket] = owed
        self.bytes += entry.size
        self._ready.append(piece)

    def first(self, now: float) -> tuple[float, Piece | None]:
        """The piece whose turn is next and when that is."""
        if self._waiting and (self._waiting[0][0] <= now or not self._ready):
            return self._waiting[0][0], self._waiting[0][2]
        return (now, self._ready[0]) if self._ready else (NEVER, None)

    def pop(self, piece: Piece, most: int) -> list[Piece]:
        """Takes out the piece that ``first`` named, and those after it that may go with it: ``most`` bytes in all."""
        if self._waiting and self._waiting[0][2] is piece:
            heapq.heappop(self._waiting)
            return [piece]
        ready = self._ready
        ready.popleft()
        if piece.alone:
            return [piece]
        taken, signal, size = [piece], piece.owed.entry.signal, piece.owed.entry.size
        while ready:
            entry = ready[0].owed.entry
            if ready[0].alone or entry.signal is not signal or size + entry.size > most:
                break
            size += entry.size
            taken.append(ready.popleft())
        self.mergeable -= size
        return taken

    def wait(self, piece: Piece) -> None:
        """Puts a piece back until its ``not_before``; it goes alone then."""
        piece.alone = True
        heapq.heappush(self._waiting, (piece.not_before, next(self._order), piece))

    def part(self, pieces: Sequence[Piece]) -> None:
        """Puts pieces that went together back, in front, each to go alone."""
        for piece in pieces:
            piece.alone = True
        self._ready.extendleft(reversed(pieces))

    def split(self, piece: Piece, start: int, stop: int) -> None:
        """Puts two halves of the items from ``start`` to ``stop`` in the place of a piece."""
        middle = (start + stop) // 2
        halves = [Piece(piece.owed, start, middle), Piece(piece.owed, middle, stop)]
        piece.owed.pieces.remove(piece)
        piece.owed.pieces.extend(halves)
        self._ready.extendleft(reversed(halves))

    def settle(self, piece: Piece, items: int) -> bool:
        """Forgets a piece; whether its entry has none left, and is to be closed."""
        piece.owed.pieces.remove(piece)
        piece.owed.left -= items
        return not piece.owed.pieces

    def close(self, owed: Owed) -> None:
        """Forgets an entry."""
        if self._open.pop(owed.ticket, None) is not None:
            self.bytes -= owed.entry.size

    def hurry(self) -> None:
        """Lets every piece be tried now."""
        for _, _, piece in sorted(self._waiting, key=lambda item: item[:2], reverse=True):
            piece.not_before = 0.0
            self._ready.appendleft(piece)
        self._waiting.clear()

    @property
    def has_ready(self) -> bool:
        """Whether a piece is there that nothing but its turn holds up."""
        return bool(self._ready)

    @property
    def last_ticket(self) -> int:
        """The ticket of the entry that came last, -1 if none did."""
        return self._last

    def settled(self, ticket: int) -> bool:
        """Whether nothing is left of the entries up to ``ticket``."""
        return next(iter(self._open), ticket + 1) > ticket

    @property
    def oldest(self) -> Entry | None:
        """The entry that has been held longest."""
        return next(iter(self._open.values())).entry if self._open else None

    def clear(self) -> list[Owed]:
        """Forgets everything and returns the entries that were held."""
        rest = list(self._open.values())
        self._open.clear()
        self._ready.clear()
        self._waiting.clear()
        self.bytes = self.mergeable = 0
        return rest
