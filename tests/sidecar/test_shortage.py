"""A machine that has run out of something for a moment: data wait, and do not go with it."""

from __future__ import annotations

import errno
import threading
import time

from otel_langfuse.counters import Counters
from otel_langfuse.sidecar.config.schema import Queue, Retry
from otel_langfuse.sidecar.destinations.otlp import OtlpDestination
from otel_langfuse.sidecar.destinations.policy import Policy
from otel_langfuse.sidecar.destinations.verdicts import Verdict
from otel_langfuse.sidecar.entry import Entry, RefusedError, Signal
from otel_langfuse.sidecar.journal import MemoryJournal


class Sender:
    """Fails once for lack of descriptors, then sends."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.sent: list[bytes] = []
        self.delivered = threading.Event()

    def send(self, signal: Signal, payload: bytes, items: int, timeout: float) -> Verdict:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        self.sent.append(payload)
        self.delivered.set()
        return Verdict("delivered", "", "")

    def close(self) -> None:
        pass


class Journal(MemoryJournal):
    """Cannot be read as often as said."""

    def __init__(self, failures: int) -> None:
        super().__init__(1 << 20)
        self.left = failures

    def payload(self, entry: Entry) -> bytes | None:
        if self.left:
            self.left -= 1
            raise RefusedError("it cannot be read now", reason="journal_failed", retry_after=0.05)
        return super().payload(entry)


def deliver(journal: Journal, sender: Sender) -> Counters:
    counters = Counters()
    destination = OtlpDestination(
        "otlp_http/tempo",
        frozenset({Signal.TRACES}),
        sender,
        journal,
        queue=Queue(),
        retry=Retry(),
        policy=Policy(),
        timeout=1.0,
        counters=counters,
        clock=time.monotonic,
    )
    entry = journal.append(Signal.TRACES, b"payload", 1, ["otlp_http/tempo"])
    destination.offer(entry)
    destination.start()
    try:
        assert sender.delivered.wait(20)
        assert destination.flush(20)
    finally:
        destination.shutdown(5)
    assert sender.sent == [b"payload"]
    assert not counters.drops
    return counters


def test_a_sender_without_descriptors_tries_again() -> None:
    counts = deliver(Journal(0), Sender(1)).counts
    assert counts["sent"] == 1
    assert counts["ambiguous_resend"] == 1


def test_a_journal_that_cannot_be_read_for_a_moment_loses_nothing() -> None:
    counts = deliver(Journal(2), Sender(0)).counts
    assert counts["sent"] == 1
    assert "ambiguous_resend" not in counts
