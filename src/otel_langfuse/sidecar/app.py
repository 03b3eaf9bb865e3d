"""The sidecar as a whole: what a configuration comes to, started in the safe order and stopped in the reverse.

Start: journal, destinations with what the journal still owes them, intake, listeners. Stop: listeners, then every
destination at once within the time for shutdown, then the journal, which keeps what is left.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.langfuse.compression import compress
from otel_langfuse.sidecar.admin import admin_app
from otel_langfuse.sidecar.config import settings_of
from otel_langfuse.sidecar.config.plan import LangfuseEnd, Listener, OtlpEnd, Plan
from otel_langfuse.sidecar.config.schema import GrpcProtocol
from otel_langfuse.sidecar.destinations import destination_of
from otel_langfuse.sidecar.destinations.langfuse import LangfuseDestination
from otel_langfuse.sidecar.entry import Destination, Journal, RefusedError, Signal
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.journal import MemoryJournal, SqliteJournal
from otel_langfuse.sidecar.receivers import GrpcReceiver, HttpReceiver
from otel_langfuse.sidecar.serving import AsgiServer

__all__ = ["Sidecar"]

_RECEIVER_SHARE = 0.2  # of the time for shutdown, for requests that are on their way in
_HOUSEKEEPING = 30.0
_EXPIRED_REMEDY = "They were older than extensions.journal.max_age; the destination did not take them (see its last error)."
_GONE_REMEDY = "The journal held them for a destination that is not configured any more."


class Sidecar:
    """Receives, journals, maps, delivers.

    Args:
        plan: The resolved configuration.
        clock: Monotonic seconds for the Langfuse destinations; a fake one comes with its ``wait``.
        wait: Waits on a condition.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float | None], bool] = threading.Condition.wait,
    ) -> None:
        self._plan = plan
        self.counters = Counters()
        self._now = _steady_clock()
        self._journal: Journal = _journal(plan, self.counters, self._now)
        self._langfuse = [
            LangfuseDestination(end, settings_of(end), self._journal, clock=clock, wait=wait) for end in plan.langfuse
        ]
        self._destinations: list[Destination] = [
            *self._langfuse,
            *(destination_of(end, self._journal) for end in plan.otlp),
        ]
        self._by_name = {destination.name: destination for destination in self._destinations}
        self._intake = Intake(self._journal, _ways(plan, self._by_name), self.counters)
        self._receivers = [self._receiver(listener) for listener in plan.listeners]
        self._admin: AsgiServer | None = None
        if plan.admin is not None:
            key = plan.admin.key.get_secret_value() if plan.admin.key is not None else None
            self._admin = AsgiServer(admin_app(self, key), plan.admin.endpoint, "extensions.admin.endpoint")
        self._stop_housekeeping = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="otel-langfuse-journal-age", daemon=True)
        self._taking = False
        self._started_at = time.time()

    # ------------------------------------------------------------------------------------------ lifecycle

    def start(self) -> None:
        """Starts everything, what the journal holds first.

        Raises:
            ConfigError: A listener's address cannot be used.
        """
        compress(b"")  # what is loaded at first use is loaded now, while there are files to be had
        self._recover()
        for destination in self._destinations:
            destination.start()
        try:
            for receiver in self._receivers:
                receiver.start()
            if self._admin is not None:
                self._admin.start()
        except BaseException:
            self.stop(0.0)
            raise
        self._housekeeper.start()
        self._taking = True

    def stop(self, timeout: float | None = None) -> bool:
        """Stops taking data, drains within ``timeout`` seconds, keeps the rest in the journal; whether nothing was lost."""
        patience = self._plan.service.shutdown_timeout if timeout is None else timeout
        deadline = time.monotonic() + patience
        self._taking = False
        for receiver in self._receivers:
            receiver.stop(patience * _RECEIVER_SHARE)
        self._intake.close()
        left = max(deadline - time.monotonic(), 0.0)
        with ThreadPoolExecutor(len(self._destinations), "otel-langfuse-stop") as pool:
            drained = list(pool.map(lambda destination: destination.shutdown(left), self._destinations))
        self._stop_housekeeping.set()
        if self._housekeeper.ident is not None:
            self._housekeeper.join()
        self._journal.close()
        if self._admin is not None:
            self._admin.stop()
        return all(drained)

    @property
    def addresses(self) -> Mapping[str, tuple[str, int]]:
        """Where it listens: ``<receiver>/grpc``, ``<receiver>/http``, ``admin``."""
        found = {
            f"{listener.receiver}/{'grpc' if isinstance(listener.protocol, GrpcProtocol) else 'http'}": receiver.address
            for listener, receiver in zip(self._plan.listeners, self._receivers, strict=True)
        }
        if self._admin is not None:
            found["admin"] = self._admin.address
        return found

    # --------------------------------------------------------------------------------------------- upkeep

    @property
    def health(self) -> str:
        """``ok``, ``refusing`` (running, and full: the last request was told to come again), ``stopping``."""
        if not self._taking:
            return "stopping"
        return "refusing" if self._intake.refusing else "ok"

    def status(self) -> Mapping[str, Any]:
        """Everything that is counted; no content, no secrets."""
        return {
            "health": self.health,
            "started_at": self._started_at,
            "intake": dict(self.counters.counts),
            "lost_before_destinations": dict(self.counters.drops),
            "journal": self._journal.status(),
            "destinations": {destination.name: destination.status() for destination in self._destinations},
        }

    def flush(self, timeout: float) -> Mapping[str, bool]:
        """Ends all waits; by destination, whether all before is delivered or dropped within ``timeout`` seconds."""
        with ThreadPoolExecutor(len(self._destinations), "otel-langfuse-flush") as pool:
            done = list(pool.map(lambda destination: destination.flush(timeout), self._destinations))
        return {destination.name: flushed for destination, flushed in zip(self._destinations, done, strict=True)}

    def keep_house(self) -> None:
        """Drops what is older than the journal may be; done by itself twice a minute."""
        if isinstance(self._journal, SqliteJournal):
            self._expire(self._journal)

    def _expire(self, journal: SqliteJournal, *, requests: bool = False) -> None:
        for name, items in journal.expire(self._now(), requests=requests).items():
            self.counters.drop(f"expired_{name}", items, _EXPIRED_REMEDY)

    # ------------------------------------------------------------------------------------------- building

    def _receiver(self, listener: Listener) -> GrpcReceiver | HttpReceiver:
        receiver = GrpcReceiver if isinstance(listener.protocol, GrpcProtocol) else HttpReceiver
        return receiver(listener, self._intake, self.counters, inline=not self._journal.durable)

    def _recover(self) -> None:
        """Hands each destination what an earlier process left for it."""
        if not isinstance(self._journal, SqliteJournal):
            return
        try:
            self._take_over(self._journal)
        except RefusedError as error:
            raise ConfigError(f"extensions.journal.directory: {error}", field="extensions.journal.directory") from None

    def _take_over(self, journal: SqliteJournal) -> None:
        for name, _, items in journal.destinations():
            if name not in self._by_name:
                journal.forget(name)
                self.counters.drop("destination_removed", items, _GONE_REMEDY)
        self._expire(journal, requests=True)
        recovered = journal.recover()
        for langfuse in self._langfuse:
            langfuse.restore(
                recovered.requests.get(langfuse.name, ()),
                recovered.encoded.get(langfuse.name, {}),
                recovered.promises.get(langfuse.name, ()),
            )
        for destination in self._destinations:
            for entry, attempted in recovered.entries.get(destination.name, ()):
                destination.offer(entry, attempted=attempted)

    def _keep_house(self) -> None:
        while not self._stop_housekeeping.wait(_HOUSEKEEPING):
            self.keep_house()


def _steady_clock() -> Callable[[], float]:
    """Seconds since the epoch, as they were at the start and go on from there.

    Ages decide what is dropped. A system clock that is set while we run must not make everything old at once.
    """
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


def _journal(plan: Plan, counters: Counters, now: Callable[[], float]) -> Journal:
    journal = plan.journal
    if journal.directory is None:
        return MemoryJournal(journal.max_bytes, clock=now)
    return SqliteJournal(
        Path(journal.directory),
        max_bytes=journal.max_bytes,
        max_age=journal.max_age,
        fsync=journal.fsync,
        counters=counters,
        clock=now,
    )


def _ways(plan: Plan, by_name: Mapping[str, Destination]) -> dict[tuple[Signal, str], list[Destination]]:
    """By signal and receiver, the destinations."""
    ways: dict[tuple[Signal, str], list[Destination]] = defaultdict(list)
    ends: list[LangfuseEnd | OtlpEnd] = [*plan.langfuse, *plan.otlp]
    for end in ends:
        for signal, receivers in end.receivers.items():
            for receiver in receivers:
                ways[signal, receiver].append(by_name[end.name])
    return dict(ways)
