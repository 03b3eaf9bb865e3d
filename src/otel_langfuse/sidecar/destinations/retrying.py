"""When a destination is asked again. Data only: no lock, no clock, no waiting."""

from __future__ import annotations

from collections.abc import Callable

from otel_langfuse.sidecar.config.schema import Retry
from otel_langfuse.sidecar.destinations.pending import Piece

__all__ = ["RETRY_AFTER_CAP", "Pacing"]

RETRY_AFTER_CAP = 120.0
"""Seconds of ``Retry-After`` or ``RetryInfo`` that are obeyed at most."""

_LEAST_DELAY = 0.01
# Refusals for size in a row after which splitting slows down: a server that refuses everything must not get a request
# for each item at full speed.
_PATIENCE = 64


class Pacing:
    """Remembers how a destination answered lately.

    Args:
        retry: The intervals.
        random: Uniform in [0, 1), for jitter.

    Attributes:
        failures: Failures in a row that may pass.
    """

    def __init__(self, retry: Retry, random: Callable[[], float]) -> None:
        self._retry = retry
        self._random = random
        self.failures = 0
        self._refusals = 0
        self._resume_at = 0.0
        self._asked_until = 0.0

    @property
    def enabled(self) -> bool:
        """Whether anything is sent again."""
        return self._retry.enabled

    @property
    def gate(self) -> float:
        """When the destination may be asked next."""
        return max(self._resume_at, self._asked_until)

    def passed(self) -> None:
        """An answer came that is no failure of the destination's."""
        self.failures = 0
        self._refusals = 0
        self._resume_at = 0.0

    def failed(self, after: float | None, now: float) -> float:
        """A request failed in a way that may pass; returns the seconds until the destination is asked again.

        Args:
            after: Seconds that the server asked to wait, or ``None``.
            now: The time.
        """
        self.failures += 1
        pause = self._backoff(self.failures)
        if after:  # zero says no more than that it may pass
            pause = min(after, RETRY_AFTER_CAP)
            self._asked_until = max(self._asked_until, now + pause)
        self._resume_at = now + pause
        return pause

    def again(self, piece: Piece, pause: float, now: float) -> bool:
        """Whether a piece of a request that failed is to be sent again, which its ``not_before`` then says."""
        piece.since = now if piece.since is None else piece.since
        oldest = self._retry.max_elapsed_time
        if not self._retry.enabled or (oldest and now - piece.since > oldest):
            return False
        # A request that fails where others pass must not come back at once each time one of them passed.
        piece.not_before = now + max(pause, self._backoff(piece.attempts))
        return True

    def refused(self, now: float) -> None:
        """A piece was too large."""
        self.failures = 0
        self._refusals += 1
        self._resume_at = now + self._backoff(self._refusals - _PATIENCE) if self._refusals > _PATIENCE else 0.0

    def hurry(self) -> None:
        """Forgets the pause that we chose; one that the server asked for stays."""
        self._resume_at = 0.0

    def _backoff(self, failures: int) -> float:
        retry = self._retry
        try:
            longest = min(retry.initial_interval * retry.multiplier ** max(failures - 1, 0), retry.max_interval)
        except OverflowError:
            longest = retry.max_interval
        spread = retry.randomization_factor * (2 * self._random() - 1)
        return max(longest * (1 + spread), _LEAST_DELAY)
