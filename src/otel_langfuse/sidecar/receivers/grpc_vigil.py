"""What time does to a gRPC connection: idleness, age, keepalive and pings, as the configuration's ``keepalive`` has them.

The rules are those of gRPC's servers (its proposals A8 and A9): a connection that is told to go may finish its calls; a
client that pings more often than it may is shown the door at the third time, and what is sent to it in between makes
pings free again, because clients measure the line with them. As for the Collector, 0 stands for the default.
"""

from __future__ import annotations

import math
import random
from enum import Enum

from otel_langfuse.sidecar.config.schema import Keepalive, KeepaliveEnforcement, KeepaliveServer

__all__ = ["Due", "Vigil", "shortest"]

_DEFAULTS, _ENFORCED = KeepaliveServer(), KeepaliveEnforcement()
_STRIKES = 2
_IDLE_PING_SECONDS = 7200.0
# How long a client that was told to go, and has no call open, may take to do so.
_LINGER_SECONDS = 1.0
_JITTER = 0.1  # of a connection's age, so that not all go at once


class Due(Enum):
    """What is to be done with a connection."""

    NOTHING = "nothing"
    PING = "ping"
    LEAVE = "leave"
    CLOSE = "close"
    ABORT = "abort"


class Vigil:
    """Keeps the times of one connection; readings of the monotonic clock.

    Args:
        keepalive: The listener's.
        patience: Seconds that a client may take to greet, and to read.
        now: When the connection was made.
    """

    def __init__(self, keepalive: Keepalive, patience: float, now: float) -> None:
        ours, theirs = keepalive.server_parameters, keepalive.enforcement_policy
        self._idle = ours.max_connection_idle or math.inf
        self._grace = ours.max_connection_age_grace or math.inf
        self._ping_after = ours.time or _DEFAULTS.time
        self._ping_timeout = ours.timeout or _DEFAULTS.timeout
        self._ping_pause = theirs.min_time or _ENFORCED.min_time
        self._idle_ping_pause = self._ping_pause if theirs.permit_without_stream else _IDLE_PING_SECONDS
        self._patience = patience
        self._greets_until = now + patience
        self._heard = self._answered = now
        age = ours.max_connection_age or math.inf
        self._leaves = now + age * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - only to spread
        self._ends = math.inf  # set when it is told to go because of its age, and then only
        self._left: float | None = None
        self._reads_until = math.inf
        self._pinged: float | None = None
        self._half: tuple[int | None, float] = (None, now)
        self._closes: float | None = None
        self._last_ping = -math.inf
        self._strikes = 0

    def heard(self, now: float) -> None:
        """Bytes have come."""
        self._heard = now
        self._pinged = None

    def answered(self, now: float) -> None:
        """A call was answered."""
        self._answered = now
        self._strikes = 0
        self._last_ping = -math.inf

    def left(self, now: float) -> None:
        """The client was told to go."""
        self._left = now if self._left is None else self._left

    def waits_for_reader(self, now: float) -> None:
        """The client does not read."""
        self._reads_until = now + self._patience

    def waits_no_more(self) -> None:
        """It does again."""
        self._reads_until = math.inf

    def too_many_pings(self, now: float, *, busy: bool) -> bool:
        """Whether this ping of the client is one too many."""
        pause = self._ping_pause if busy else self._idle_ping_pause
        self._strikes += now - self._last_ping < pause
        self._last_ping = now
        return self._strikes > _STRIKES

    def closing_too_long(self, now: float) -> bool:
        """Whether a connection that is closed still is not gone, because the client does not take the last words."""
        if self._closes is None:
            self._closes = now
        return now - self._closes >= _LINGER_SECONDS

    def due(self, now: float, *, greeted: bool, half: int | None, busy: bool) -> Due:
        """What is to be done.

        Args:
            now: The time.
            greeted: Whether the client has said that it speaks HTTP/2.
            half: Where reading is, if it is in the middle of something that is held.
            busy: Whether calls are open.
        """
        if half is None or half != self._half[0]:
            self._half = (half, now)
        elif now - self._half[1] >= self._patience:
            return Due.ABORT
        if now >= self._reads_until or (not greeted and now >= self._greets_until):
            return Due.ABORT
        if self._left is not None:
            return self._due_after_leaving(now, self._left, busy=busy)
        if now >= self._leaves:
            self._ends = now + self._grace
            return Due.LEAVE
        if not busy and now - self._answered >= self._idle:
            return Due.LEAVE
        if self._pinged is not None:
            return Due.ABORT if now - self._pinged >= self._ping_timeout else Due.NOTHING
        if now - self._heard >= self._ping_after:
            self._pinged = now
            return Due.PING
        return Due.NOTHING

    def _due_after_leaving(self, now: float, left: float, *, busy: bool) -> Due:
        if not busy and now - max(left, self._answered) >= _LINGER_SECONDS:
            return Due.CLOSE
        return Due.ABORT if busy and now >= self._ends else Due.NOTHING


def shortest(keepalive: Keepalive) -> float:
    """Seconds of the shortest time that is configured."""
    ours = keepalive.server_parameters
    times = (ours.max_connection_idle, ours.max_connection_age, ours.max_connection_age_grace, ours.time, ours.timeout)
    return min(filter(None, times), default=math.inf)
