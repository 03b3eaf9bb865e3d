"""Time that moves only when a test says so."""

from __future__ import annotations

import threading

__all__ = ["FakeClock"]


class FakeClock:
    """A clock to be called, and the waiting that belongs to it.

    Give the object as ``clock`` and its ``wait`` as ``wait``; ``advance`` then ends every wait whose time has come.
    Thread-safe. Real time never passes for it.

    Args:
        start: The first reading.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._moves = 0
        self._changed = threading.Condition()
        self._waiting: dict[int, tuple[threading.Condition, float | None]] = {}
        self._seen = threading.local()

    def __call__(self) -> float:
        """The current reading."""
        with self._changed:
            self._seen.moves = self._moves
            return self._now

    def advance(self, seconds: float) -> None:
        """Moves time on and wakes all who wait."""
        with self._changed:
            self._now += seconds
            self._moves += 1
            conditions = [condition for condition, _ in self._waiting.values()]
        for condition in conditions:
            with condition:
                condition.notify_all()

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Waits on ``condition``, which the caller holds, until it is notified or time has moved."""
        me = threading.get_ident()
        with self._changed:
            # The caller computed ``timeout`` from a reading that has become old in the meantime.
            if getattr(self._seen, "moves", self._moves) != self._moves:
                return True
            self._waiting[me] = (condition, None if timeout is None else self._now + timeout)
            self._changed.notify_all()
        try:
            condition.wait()
        finally:
            with self._changed:
                del self._waiting[me]
        return True

    def next_wait(self, real_timeout: float = 10.0) -> float:
        """Seconds until the earliest wait with a limit ends; blocks until there is one.

        Raises:
            TimeoutError: Nothing waits with a limit, after ``real_timeout`` real seconds.
        """

        def limits() -> list[float]:
            # A wait whose time has come is about to end; it only has not run yet.
            return [until for _, until in self._waiting.values() if until is not None and until > self._now]

        with self._changed:
            if not self._changed.wait_for(limits, real_timeout):
                message = "nothing waits for a point in time"
                raise TimeoutError(message)
            return min(limits()) - self._now
