"""Counts of everything that happens to spans, and the one way to lose one.

Rule: a span may leave the pipeline undelivered only through ``Counters.drop(reason, n)``. The counts show in
``status()``, and at most once a minute in a log line, so that no loss is silent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

__all__ = ["Counters", "OncePerInterval"]

logger = logging.getLogger(__name__)


class OncePerInterval:
    """Answers ``True`` at most once per ``seconds`` for each key; keeps log storms out.

    Needs no lock: two threads that ask at the same moment may both speak, and a fork cannot leave a lock behind. Holds
    one float per key; keys are fixed strings of this package, so it is bounded.
    """

    def __init__(self, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: dict[str, float] = {}

    def __call__(self, key: str) -> bool:
        """Whether the caller may speak about ``key`` now."""
        now = self._clock()
        last = self._last.get(key)
        if last is not None and now - last < self._seconds:
            return False
        self._last[key] = now
        return True


class Counters:
    """Named counts and drop reasons; thread-safe, never reset.

    After a fork the child starts from zero (``reset_after_fork``): the parent's spans are the parent's to report.

    Args:
        clock: Monotonic seconds.
        name: Which copy of the spans is counted, for log lines; empty for the one that goes to Langfuse.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, name: str = "") -> None:
        self._who = f"otel-langfuse ({name})" if name else "otel-langfuse"
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._drops: dict[str, int] = {}
        self._may_log = OncePerInterval(60.0, clock)

    def count(self, name: str, n: int = 1) -> None:
        """Adds ``n`` to the count ``name``."""
        if n:
            with self._lock:
                self._counts[name] = self._counts.get(name, 0) + n

    def drop(self, reason: str, n: int = 1, remedy: str = "") -> None:
        """Records that ``n`` spans are lost for ``reason``; logs the running total at most once a minute per reason."""
        if not n:
            return
        with self._lock:
            self._drops[reason] = total = self._drops.get(reason, 0) + n
        if self._may_log(reason):
            logger.warning(
                "%s dropped spans: reason=%s, now %d, in total %d.%s",
                self._who,
                reason,
                n,
                total,
                " " + remedy if remedy else "",
            )

    @property
    def counts(self) -> Mapping[str, int]:
        """A copy of the counts."""
        with self._lock:
            return dict(self._counts)

    @property
    def drops(self) -> Mapping[str, int]:
        """A copy of the lost spans by reason."""
        with self._lock:
            return dict(self._drops)

    def reset_after_fork(self) -> None:
        """Forgets the parent's counts and locks; called in the child of a fork."""
        self._lock = threading.Lock()
        self._counts = {}
        self._drops = {}
        self._may_log = OncePerInterval(60.0)
