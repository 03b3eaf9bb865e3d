"""How much goes in one request: entries that wait together travel together. Data only: no lock, no clock.

Export requests may be written one after another: that is how protobuf merges them. A request costs about the same
whatever is in it, so after one the next entries gather, for a moment and up to a size. What has failed once goes
alone from then on, so that neither a limit of the backend, nor a slow line, nor one bad entry costs the others.
"""

from __future__ import annotations

__all__ = ["GATHER", "MOST", "Merging"]

MOST = 2 << 20
"""Bytes of entries in one request, unless one alone has more: half of what gRPC servers take if nobody tells them."""
GATHER = 0.02
"""Seconds from the beginning of a request to that of the next, unless that one is full. After a pause nothing waits."""

_STEPS = 256  # deliveries after which the limit is where it was before requests got no answer


class Merging:
    """The limit of one destination, as its answers have made it.

    Args:
        most: Bytes to begin with; 0: nothing is merged.

    Attributes:
        limit: Bytes of entries that may go together now.
    """

    def __init__(self, most: int) -> None:
        self.limit = most
        self._ceiling = most

    def passed(self) -> None:
        """A request was delivered."""
        self.limit = min(self.limit + self._ceiling // _STEPS, self._ceiling)

    def unanswered(self) -> None:
        """Nobody knows what became of a request of several entries: it may take too long for the line."""
        self.limit //= 2

    def refused(self, size: int) -> None:
        """A request of several entries with ``size`` bytes was too large. The backend's limit will not grow."""
        self._ceiling = self.limit = min(self.limit, size // 2)
