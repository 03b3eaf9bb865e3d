"""What shutdown does with an entry of which parts have been delivered: the rest becomes an entry of its own.

The journal knows entries, not ranges of them. Left as it is, the whole entry would be sent again at the next start,
delivered parts included.
"""

from __future__ import annotations

import logging

from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.destinations.payloads import take_items
from otel_langfuse.sidecar.destinations.pending import Owed
from otel_langfuse.sidecar.destinations.policy import Policy
from otel_langfuse.sidecar.entry import Journal, RefusedError

__all__ = ["keep_rest"]

logger = logging.getLogger(__name__)


def keep_rest(owed: Owed, name: str, journal: Journal, policy: Policy, unfinished: bool) -> bool:
    """Journals what is left of a split entry; whether the entry itself is settled by that.

    Args:
        owed: The entry and its pieces that have not left.
        name: The destination.
        journal: Where it is kept.
        policy: Has to be idempotent: it is applied again at the next start.
        unfinished: Whether one of the pieces is being sent, so that its outcome will not be known.
    """
    ranges = sorted((piece.start, piece.stop) for piece in owed.pieces if piece.stop is not None)
    left = sum(stop - start for start, stop in ranges)
    if not ranges or len(ranges) < len(owed.pieces) or owed.left != left:
        return False
    try:
        payload = journal.payload(owed.entry)
        if payload is None:
            return False
        applied = policy.apply(owed.entry.signal, payload, owed.entry.items)
        if left == applied.items:
            return False  # Nothing of it has been delivered.
        # Requests may be written one after another: that is how protobuf merges them.
        rest = b"".join(take_items(owed.entry.signal, applied.payload, start, stop) for start, stop in ranges)
        entry = journal.append(owed.entry.signal, rest, left, [name])
        if unfinished or any(piece.outcome_unknown for piece in owed.pieces):
            journal.attempt([entry], name)
    except (RefusedError, PayloadError) as error:
        logger.warning("otel-langfuse: %s will send an entry of %d items as a whole again: %s", name, owed.entry.items, error)
        return False
    return True
