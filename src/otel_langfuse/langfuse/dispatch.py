"""One attempt to deliver one request, and what follows from it; no threads, no queue, no waiting.

The caller owns the queue: it puts ``Outcome.requests`` where the tried request was, and leaves the destination alone
for ``Outcome.pause`` seconds. Nothing that is known to be stored is in a following request, and nothing that is known
not to be stored is missing from one, unless ``Outcome.dropped`` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.answers import Endpoint, Judge, LangfuseJudge, Verdict
from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.splitting import cut, halves
from otel_langfuse.langfuse.transport import Transport, TransportError

__all__ = ["RETRY_AFTER_CAP", "Dispatcher", "Outcome"]

RETRY_AFTER_CAP = 120.0
"""Seconds of ``Retry-After`` that are obeyed at most."""

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
# Refusals in a row after which bisecting slows down: a server that refuses everything must not get a request per span
# at full speed.
_PATIENCE = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        delivered: Spans stored.
        dropped: Spans given up.
        reason: Why, as a drop reason.
        message: A sentence about the failure; empty after a success.
        status: The HTTP status, or ``None`` when no answer came.
        requests: What is to be sent in place of the request.
        resend: Whether ``requests`` is the same request again, which other ones may overtake.
        pause: Seconds in which nothing should be sent.
        asked: Whether the server asked for that pause.
    """

    delivered: int = 0
    dropped: int = 0
    reason: str = ""
    message: str = ""
    status: int | None = None
    requests: tuple[Request, ...] = ()
    resend: bool = False
    pause: float = 0.0
    asked: bool = False


class Dispatcher:
    """Makes attempts and remembers how many failed in a row. Used by one thread at a time.

    Args:
        transport: Where bytes go.
        endpoint: What sentences may say about the destination.
        counters: Counts requests, bytes, retries, splits and cuts; spans are counted by the caller from the outcome.
        max_age: Seconds after a batch's first failure in which it is retried.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch, for dates in ``Retry-After``.
        random: Uniform in [0, 1), for jitter.
        judge: Says what an answer means; Langfuse's own at ``endpoint`` if not given.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        endpoint: Endpoint,
        counters: Counters,
        max_age: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random: Callable[[], float],
        judge: Judge | None = None,
    ) -> None:
        self._transport = transport
        self._judge = judge or LangfuseJudge(endpoint)
        self._counters = counters
        self._max_age = max_age
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._failures = 0
        self._refusals = 0

    def attempt(self, request: Request, timeout: float) -> Outcome:
        """Sends ``request`` once and says what follows."""
        self._announce(request)
        try:
            answer = self._transport.post(request.body, compressed=request.compressed, timeout=timeout)
        except TransportError as error:
            verdict = self._judge.silence(error, spans=request.spans)
        else:
            verdict = self._judge.answer(answer, spans=request.spans, wall_clock=self._wall_clock)
        request.attempts += 1
        request.outcome_unknown = verdict.ambiguous
        if verdict.action != "retry":
            self._failures = 0
        if verdict.action not in ("split", "isolate"):
            self._refusals = 0
        if verdict.action == "delivered":
            return Outcome(
                delivered=request.spans - verdict.rejected,
                dropped=verdict.rejected,
                reason=verdict.reason,
                message=verdict.message,
                status=verdict.status,
            )
        if verdict.action == "retry":
            return self._retry(request, verdict)
        if verdict.action == "permanent":
            return _drop(request, verdict)
        return self._take_apart(request, verdict)

    def _announce(self, request: Request) -> None:
        self._counters.count("requests")
        self._counters.count("bytes_sent", len(request.body))
        if request.attempts:
            self._counters.count("retries")
        if request.outcome_unknown:
            self._counters.count("ambiguous_resend", request.spans)

    def _retry(self, request: Request, verdict: Verdict) -> Outcome:
        now = self._clock()
        if request.since is None:
            request.since = now
        if self._old(request.since, now):
            return _drop(request, verdict)
        self._failures += 1
        pause = self._backoff(self._failures)
        asked = verdict.after is not None
        if verdict.after is not None:
            pause = min(verdict.after, RETRY_AFTER_CAP)
        # A request that fails where others pass must not come back at once each time one of them passed.
        request.not_before = now + max(pause, self._backoff(request.attempts))
        return Outcome(
            message=verdict.message,
            status=verdict.status,
            requests=(request,),
            resend=True,
            pause=pause,
            asked=asked,
        )

    def _take_apart(self, request: Request, verdict: Verdict) -> Outcome:
        """Follows a 413 or 400: two halves, or one span that is cut or given up."""
        self._refusals += 1
        now = self._clock()
        if request.refused_since is None:
            request.refused_since = now
        parts: tuple[Request, ...] = ()
        try:
            if request.spans > 1 and (verdict.action == "split" or not self._old(request.refused_since, now)):
                parts = halves(request)
                self._counters.count("split_requests")
            elif verdict.action == "split" and request.spans == 1:
                smaller = cut(request)
                if smaller is not None:
                    parts = (smaller,)
                    self._counters.count("cut_spans")
        except ValueError:
            parts = ()
        pause = self._backoff(self._refusals - _PATIENCE) if self._refusals > _PATIENCE else 0.0
        if not parts:
            return _drop(request, verdict, pause)
        return Outcome(message=verdict.message, status=verdict.status, requests=parts, pause=pause)

    def _old(self, since: float, now: float) -> bool:
        return now - since > self._max_age

    def _backoff(self, failures: int) -> float:
        """0.5 s, doubled per failure up to 30 s, then halved by chance so that many senders do not come together."""
        longest = min(_FIRST_DELAY * 2.0 ** min(failures - 1, 16), _LONGEST_DELAY)
        return longest * (0.5 + 0.5 * self._random())


def _drop(request: Request, verdict: Verdict, pause: float = 0.0) -> Outcome:
    return Outcome(dropped=request.spans, reason=verdict.reason, message=verdict.message, status=verdict.status, pause=pause)
