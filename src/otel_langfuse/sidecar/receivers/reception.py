"""What both protocols do with a request that has come in whole: expand, convert, hand to the intake, judge the outcome.

This is the border of the receivers: no error goes beyond it. What was not foreseen is counted, logged once a minute
without the request's content, and answered so that the sender comes again. A request that will not come again is lost with
what it held, which many senders do not say aloud: the log does, for each kind, seldom enough for what comes every minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.errors import place_of
from otel_langfuse.sidecar.entry import Receipt, Signal
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers.answers import Code, Verdict, judge
from otel_langfuse.sidecar.receivers.bodies import Workspace, expand
from otel_langfuse.sidecar.receivers.otlp_json import logs_from_json, traces_from_json

__all__ = ["Reception"]

logger = logging.getLogger(__name__)


_REFUSALS_SECONDS = 600.0
_GIVEN_UP = Verdict(Code.UNAVAILABLE, 503, "the call was given up", 1.0, "incomplete_requests")  # nobody hears it


class Reception:
    """Takes the requests of one receiver, from any thread.

    Args:
        receiver: The receiver's id.
        limit: Bytes that a request may have after decompression.
    """

    def __init__(self, receiver: str, intake: Intake, counters: Counters, limit: int) -> None:
        self._receiver = receiver
        self._intake = intake
        self._counters = counters
        self._limit = limit
        self._workspace = Workspace(limit)
        self._may_log = OncePerInterval()
        self._may_say = OncePerInterval(_REFUSALS_SECONDS)

    def take(
        self,
        signal: Signal,
        body: bytes,
        *,
        encoding: str,
        as_json: bool = False,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Receipt | Verdict:
        """Accepts a request or says why not; waits for room and for the journal. Raises nothing.

        Args:
            signal: What it holds.
            body: It, as it came.
            encoding: Its compression, of ``ENCODINGS``.
            as_json: Whether it is JSON.
            wanted: Whether the sender still waits for the answer; if not it comes again, and nothing is taken.
        """
        held = 0
        try:
            if encoding != "identity":
                held = self._workspace.take()
            if not wanted():
                self._counters.count(_GIVEN_UP.counter)
                return _GIVEN_UP
            payload = expand(body, encoding, self._limit)
            if as_json:
                payload = traces_from_json(payload) if signal is Signal.TRACES else logs_from_json(payload)
            if held > len(payload):
                self._workspace.give(held - len(payload))
                held = len(payload)
            return self._intake.take(self._receiver, signal, payload)
        except Exception as error:  # noqa: BLE001 - one of the named borders: whatever it is, the sender gets an answer
            return self.failed(error)
        finally:
            if held:
                self._workspace.give(held)

    def failed(self, error: Exception) -> Verdict:
        """Counts an error and says what it means to the sender."""
        verdict = judge(error)
        self.refused(verdict)
        if verdict.counter == "receiver_errors" and self._may_log(type(error).__name__):
            logger.error(
                "Receiver %s could not take a request: %s at %s; the sender was told to come again. Please report this.",
                self._receiver,
                type(error).__name__,
                place_of(error),
            )
        return verdict

    def refused(self, verdict: Verdict, *, lost: bool = True) -> None:
        """Counts a request that is not taken, and speaks of one that is lost with what it held."""
        self._counters.count(verdict.counter)
        # The words of what is unsupported are few; those of the rest have places and sizes in them.
        kind = verdict.message if verdict.counter == "unsupported_requests" else verdict.counter
        if lost and verdict.retry_after is None and self._may_say(kind):
            logger.warning(
                "Receiver %s refuses requests, whose senders will not send them again: %s. They are counted as %s.",
                self._receiver,
                verdict.message,
                verdict.counter,
            )
