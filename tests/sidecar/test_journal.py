"""Both journals against one contract; then what only the one on disk promises."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.entry import Entry, Journal, Recovered, RefusedError, Signal
from otel_langfuse.sidecar.journal import MemoryJournal, SqliteJournal
from otel_langfuse.sidecar.journal.schema import FILE_NAME

NAMES = ("langfuse", "otlp_http/tempo", "debug")
KEYS = [(bytes([1] * 16), bytes([n] * 8)) for n in range(1, 5)]
WAIT = 30.0


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Shelf:
    """Opens journals in one directory, and closes them in the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.counters = Counters()
        self._open: list[SqliteJournal] = []

    @property
    def file(self) -> Path:
        return self.directory / FILE_NAME

    def open(self, **changes: Any) -> SqliteJournal:
        self.counters = Counters()
        given: dict[str, Any] = {"max_bytes": 1 << 30, "max_age": 3600.0, "fsync": False} | changes
        journal = SqliteJournal(self.directory, counters=self.counters, clock=self.clock, **given)
        self._open.append(journal)
        return journal

    def close(self) -> None:
        for journal in self._open:
            journal.close()

    def overwrite(self, at: int, garbage: bytes) -> None:
        with self.file.open("r+b") as file:
            file.seek(at)
            file.write(garbage)

    @property
    def set_aside(self) -> list[Path]:
        return sorted(
            path for path in self.directory.glob(f"{FILE_NAME}.damaged-*") if not path.name.endswith(("-wal", "-shm"))
        )


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "journal")
    yield shelf
    shelf.close()


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, shelf: Shelf) -> Iterator[Journal]:
    made: Journal = MemoryJournal(10_000, clock=shelf.clock) if request.param == "memory" else shelf.open(max_bytes=10_000)
    yield made
    made.close()


def settled(journal: Journal) -> dict[str, Any]:
    """The status after everything was written."""
    if isinstance(journal, SqliteJournal):
        assert journal.flush()
    return journal.status()


def append(journal: Journal, payload: bytes = b"payload", items: int = 4, owed: tuple[str, ...] = NAMES[:2]) -> Entry:
    return journal.append(Signal.TRACES, payload, items, owed)


def append_or_none(journal: Journal, payload: bytes) -> Entry | None:
    try:
        return append(journal, payload)
    except RefusedError:
        return None


def fill(journal: Journal) -> list[Entry]:
    """Appends until the journal takes no more."""
    taken = []
    while (entry := append_or_none(journal, b"e" * 20_000)) is not None:
        taken.append(entry)
    assert len(taken) > 10
    return taken


def _checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


def ids(recovered: Recovered, name: str) -> list[int]:
    return [entry.id for entry, _ in recovered.entries.get(name, ())]


class TestBoth:
    def test_holds_until_the_last_claim_is_settled(self, journal: Journal) -> None:
        entry = append(journal, b"x" * 100)
        other = append(journal, b"y" * 10)
        assert other.id > entry.id
        journal.done(entry, NAMES[0])
        journal.done(entry, NAMES[0])
        journal.done(entry, "unknown")
        assert settled(journal)["bytes"] == 110
        assert journal.payload(entry) == b"x" * 100
        journal.done(entry, NAMES[1])
        journal.done(entry, NAMES[1])
        assert (settled(journal)["bytes"], settled(journal)["entries"]) == (10, 1)
        assert journal.payload(entry) is None
        assert journal.payload(other) == b"y" * 10

    def test_refuses_beyond_its_bound_and_takes_again(self, journal: Journal) -> None:
        first = append(journal, b"x" * 6000)
        with pytest.raises(RefusedError, match="4001 bytes do not fit") as refused:
            append(journal, b"y" * 4001)
        assert refused.value.reason == ("journal_full" if journal.durable else "memory_full")
        append(journal, b"y" * 4000)
        journal.done(first, NAMES[0])
        journal.done(first, NAMES[1])
        assert settled(journal)["bytes"] == 4000
        append(journal, b"z" * 6000)

    def test_requests_count_and_are_never_refused(self, journal: Journal) -> None:
        entry = append(journal, b"x" * 6000)
        request = journal.put_request(NAMES[0], b"b" * 5000, compressed=True, spans=4, keys={entry.id: KEYS})
        journal.attempt_request(request)
        with pytest.raises(RefusedError):
            append(journal, b"")
        first, second = journal.replace_request(request, [(b"c" * 1000, True, 2), (b"d" * 500, False, 2)])
        assert len({request, first, second}) == 3
        assert (settled(journal)["bytes"], settled(journal)["requests"]) == (7500, 2)
        journal.request_done(first)
        journal.request_done(first)
        assert (settled(journal)["bytes"], settled(journal)["requests"]) == (6500, 1)

    def test_age_of_the_oldest(self, journal: Journal, shelf: Shelf) -> None:
        assert journal.status()["oldest_seconds"] == 0
        first = append(journal, owed=("a",))
        shelf.clock.now += 5
        append(journal)
        shelf.clock.now += 2
        assert settled(journal)["oldest_seconds"] == 7
        journal.done(first, "a")
        assert settled(journal)["oldest_seconds"] == 2

    def test_closed(self, journal: Journal) -> None:
        entry = append(journal)
        journal.close()
        journal.close()
        with pytest.raises(RefusedError) as refused:
            append(journal)
        assert refused.value.reason == "shutdown"
        journal.attempt([entry], NAMES[0])
        journal.done(entry, NAMES[0])
        journal.attempt_request(1)
        journal.request_done(1)
        assert journal.payload(entry) == b"payload"

    def test_no_content_shows(self, journal: Journal) -> None:
        entry = append(journal, b"secret prompt")
        assert "secret" not in repr(entry) + repr(journal) + str(journal.status())

    def test_many_threads(self, journal: Journal) -> None:
        failures: list[BaseException] = []
        ids_seen: list[int] = []

        def work(number: int) -> None:
            try:
                for step in range(20):
                    entry = append(journal, bytes([number]) * 20, owed=("a", "b"))
                    ids_seen.append(entry.id)
                    assert journal.payload(entry) == bytes([number]) * 20, step
                    journal.done(entry, "a")
                    journal.attempt([entry], "b")
                    journal.done(entry, "b")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert not failures
        assert len(set(ids_seen)) == 240
        assert (settled(journal)["bytes"], settled(journal)["entries"]) == (0, 0)


def test_memory_recovers_nothing() -> None:
    journal = MemoryJournal(100)
    append(journal)
    assert journal.recover() == Recovered()
    assert not journal.durable


class TestRecovery:
    def test_everything_comes_back(self, shelf: Shelf) -> None:
        first = shelf.open()
        one, two = append(first, b"1" * 5000), append(first, b"2", owed=("debug",))
        logs = first.append(Signal.LOGS, b"3", 7, ["langfuse"])
        first.attempt([one], "langfuse")
        sent = first.put_request("langfuse", b"body", compressed=True, spans=2, keys={one.id: KEYS[:2]})
        unsent = first.put_request("langfuse", b"more", compressed=False, spans=1, keys={one.id: KEYS[2:3], logs.id: KEYS[:1]})
        first.attempt_request(sent)
        first.close()

        second = shelf.open()
        held = second.recover()
        assert [(entry.id, attempted) for entry, attempted in held.entries["langfuse"]] == [(one.id, True), (logs.id, False)]
        assert [(entry.id, attempted) for entry, attempted in held.entries["otlp_http/tempo"]] == [(one.id, False)]
        back = held.entries["langfuse"][1][0]
        assert (back.signal, back.items, back.size, back.received_at) == (Signal.LOGS, 7, 1, shelf.clock.now)
        assert second.payload(held.entries["langfuse"][0][0]) == b"1" * 5000
        assert second.payload(held.entries["debug"][0][0]) == b"2"
        assert [(r.id, r.body, r.compressed, r.spans, r.attempted) for r in held.requests["langfuse"]] == [
            (sent, b"body", True, 2, True),
            (unsent, b"more", False, 1, False),
        ]
        assert held.encoded == {"langfuse": {one.id: frozenset(KEYS[:3]), logs.id: frozenset(KEYS[:1])}}
        assert append(second).id > logs.id > two.id
        assert second.put_request("langfuse", b"", compressed=False, spans=0, keys={}) > unsent
        assert not shelf.counters.drops

    def test_ledger_lasts_as_long_as_the_claim(self, shelf: Shelf) -> None:
        first = shelf.open()
        entry = append(first)
        request = first.put_request("langfuse", b"body", compressed=True, spans=2, keys={entry.id: KEYS[:2]})
        first.request_done(request)
        first.close()
        second = shelf.open()
        held = second.recover()
        assert held.requests == {}
        assert held.encoded == {"langfuse": {entry.id: frozenset(KEYS[:2])}}
        second.done(entry, "langfuse")
        second.put_request("langfuse", b"late", compressed=True, spans=1, keys={entry.id: KEYS[:1]})
        second.close()
        held = shelf.open().recover()
        assert held.encoded == {}
        assert ids(held, "otlp_http/tempo") == [entry.id]

    def test_ids_never_come_twice(self, shelf: Shelf) -> None:
        first = shelf.open()
        entry = append(first)
        request = first.put_request("langfuse", b"body", compressed=True, spans=2, keys={})
        first.done(entry, NAMES[0])
        first.done(entry, NAMES[1])
        first.request_done(request)
        first.close()
        second = shelf.open()
        assert second.recover() == Recovered()
        assert append(second).id > entry.id
        assert second.put_request("langfuse", b"body", compressed=True, spans=2, keys={}) > request

    def test_parts_keep_destination_and_age(self, shelf: Shelf) -> None:
        journal = shelf.open()
        request = journal.put_request("langfuse", b"body", compressed=True, spans=2, keys={})
        shelf.clock.now += 3000
        parts = journal.replace_request(request, [(b"bo", False, 1), (b"dy", False, 1)])
        assert [r.id for r in journal.recover().requests["langfuse"]] == list(parts)
        assert journal.expire(shelf.clock.now + 601, requests=True) == {"langfuse": 2}
        assert journal.replace_request(request, [(b"x", False, 1)])
        assert journal.recover() == Recovered()

    def test_payload_from_disk(self, shelf: Shelf) -> None:
        journal = shelf.open(cache_bytes=250)
        entries = [append(journal, bytes([n]) * 100) for n in range(5)]
        assert [entry.payload is None for entry in entries] == [True, True, True, False, False]
        assert [journal.payload(entry) for entry in entries] == [bytes([n]) * 100 for n in range(5)]
        large = append(journal, b"l" * 251)
        assert (large.payload, journal.payload(large)) == (None, b"l" * 251)


class TestDestinations:
    def test_forget(self, shelf: Shelf) -> None:
        journal = shelf.open()
        one, _ = append(journal, items=4), append(journal, items=6, owed=("langfuse",))
        journal.put_request("langfuse", b"body", compressed=True, spans=3, keys={one.id: KEYS[:3]})
        assert list(journal.destinations()) == [("langfuse", 2, 10), ("otlp_http/tempo", 1, 4)]
        journal.forget("langfuse")
        assert list(journal.destinations()) == [("otlp_http/tempo", 1, 4)]
        held = journal.recover()
        assert (ids(held, "otlp_http/tempo"), held.requests, held.encoded) == ([one.id], {}, {})
        assert journal.status()["bytes"] == len(b"payload")

    def test_forget_many(self, shelf: Shelf) -> None:
        journal = shelf.open()
        last = [append(journal, owed=("gone",)) for _ in range(1203)][-1]
        journal.forget("gone")
        assert (journal.status()["entries"], journal.payload(last)) == (0, None)


class TestAge:
    def test_expires_by_destination(self, shelf: Shelf) -> None:
        journal = shelf.open()
        old = append(journal, items=4)
        shelf.clock.now += 3000
        new = append(journal, items=5)
        journal.put_request("langfuse", b"body", compressed=True, spans=3, keys={old.id: KEYS[:3]})
        journal.done(old, "debug")
        assert journal.expire(shelf.clock.now) == {}
        assert journal.expire(shelf.clock.now + 601) == {"langfuse": 1, "otlp_http/tempo": 4}
        assert journal.payload(old) is None
        assert ids(journal.recover(), "langfuse") == [new.id]
        assert journal.expire(shelf.clock.now + 3601) == {"langfuse": 5, "otlp_http/tempo": 5}
        assert [request.body for request in journal.recover().requests["langfuse"]] == [b"body"]
        assert journal.expire(shelf.clock.now + 3601, requests=True) == {"langfuse": 3}
        assert journal.recover() == Recovered()
        assert journal.status()["bytes"] == 0
        assert not shelf.counters.drops

    def test_clock_that_jumps_back(self, shelf: Shelf) -> None:
        journal = shelf.open()
        append(journal, items=1)
        shelf.clock.now -= 10_000
        append(journal, items=2, owed=("debug",))
        assert journal.status()["oldest_seconds"] == 0
        assert journal.expire(shelf.clock.now + 3601) == {"debug": 2}

    def test_many(self, shelf: Shelf) -> None:
        journal = shelf.open()
        for _ in range(1100):
            append(journal, items=2, owed=("debug",))
        assert journal.expire(shelf.clock.now + 3601) == {"debug": 2200}


class TestPromises:
    def test_survive_until_fulfilled(self, shelf: Shelf) -> None:
        first = shelf.open()
        for start, key in enumerate(KEYS):
            first.promise("langfuse", key, start)
        first.promise("langfuse", KEYS[0], 99)
        first.promise("langfuse/other", KEYS[0], 1 << 64)
        first.fulfil("langfuse", [KEYS[1], KEYS[1], (bytes(16), bytes(8))])
        first.fulfil("langfuse", ())
        first.close()
        second = shelf.open()
        kept = [(KEYS[0], 0), (KEYS[2], 2), (KEYS[3], 3)]
        assert second.recover().promises == {"langfuse": kept, "langfuse/other": [(KEYS[0], (1 << 63) - 1)]}
        second.forget("langfuse/other")
        assert second.recover().promises == {"langfuse": kept}

    def test_expire(self, shelf: Shelf) -> None:
        journal = shelf.open()
        for number in range(1100):
            journal.promise("langfuse", (bytes(16), number.to_bytes(8)), number)
        shelf.clock.now += 3000
        journal.promise("langfuse", KEYS[0], 7)
        assert journal.expire(shelf.clock.now) == {}
        assert len(journal.recover().promises["langfuse"]) == 1101
        assert journal.expire(shelf.clock.now + 601) == {}
        assert journal.recover().promises == {"langfuse": [(KEYS[0], 7)]}

    @pytest.mark.parametrize("most", [1, 100, 1000])
    def test_the_oldest_beyond_the_bound_go(self, shelf: Shelf, most: int) -> None:
        journal = shelf.open(max_promises=most)
        journal.promise("langfuse/other", KEYS[0], 7)
        for number in range(3000):
            journal.promise("langfuse", (bytes(16), number.to_bytes(8)), number)
        found = journal.recover().promises
        kept = [start for _, start in found["langfuse"]]
        assert 0.98 * most <= len(kept) <= most
        assert kept == list(range(3000 - len(kept), 3000))
        assert found["langfuse/other"] == [(KEYS[0], 7)]

    def test_a_file_from_before_them(self, shelf: Shelf) -> None:
        first = shelf.open()
        entry = append(first)
        first.close()
        connection = sqlite3.connect(shelf.file)
        connection.execute("DROP TABLE promises")
        connection.close()
        second = shelf.open()
        second.promise("langfuse", KEYS[0], 7)
        found = second.recover()
        assert (ids(found, "langfuse"), found.promises, shelf.set_aside) == ([entry.id], {"langfuse": [(KEYS[0], 7)]}, [])


class TestUnreadable:
    """What cannot be read now is no damage: the entry stays, and is read later."""

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors as Linux lists them")
    def test_without_a_descriptor(self, shelf: Shelf) -> None:
        journal = shelf.open(cache_bytes=0)
        entries = [append(journal, bytes([n]) * 100) for n in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            payloads = [journal.payload(entry) for entry in entries]
            refused: list[str] = []
            answers: list[bytes | None] = []
            together = threading.Barrier(8)

            def read() -> None:
                together.wait(WAIT)
                for _ in range(50):
                    try:
                        answers.append(journal.payload(entries[0]))
                    except RefusedError as error:
                        refused.append(error.reason)

            readers = [threading.Thread(target=read) for _ in range(8)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(WAIT)
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert payloads == [bytes([n]) * 100 for n in range(3)]
        assert len(answers) + len(refused) == 400
        assert set(answers) == {bytes(100)}
        assert set(refused) <= {"journal_failed"}
        assert not shelf.counters.drops

    def test_an_error_that_is_no_damage(self, shelf: Shelf) -> None:
        journal = shelf.open(cache_bytes=0)
        entry = append(journal)
        with sqlite3.connect(shelf.file) as other:
            other.execute("ALTER TABLE payloads RENAME TO elsewhere")
        with pytest.raises(RefusedError, match="its entries stay") as caught:
            journal.payload(entry)
        assert caught.value.reason == "journal_failed"
        other.execute("ALTER TABLE elsewhere RENAME TO payloads")
        other.close()
        assert journal.payload(entry) == b"payload"
        assert not shelf.counters.drops

    def test_after_close(self, shelf: Shelf) -> None:
        journal = shelf.open(cache_bytes=10)
        old, new = append(journal), append(journal)
        journal.close()
        with pytest.raises(RefusedError) as caught:
            journal.payload(old)
        assert caught.value.reason == "shutdown"
        assert journal.payload(new) == b"payload"


class TestFullDisk:
    def test_refuses_serves_and_goes_on(self, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
        journal = shelf.open(max_pages=60, cache_bytes=0)
        held = fill(journal)
        with pytest.raises(RefusedError, match="disk is full") as refused:
            append(journal, b"e" * 20_000)
        assert refused.value.reason == "disk_full"
        assert journal.payload(held[0]) == b"e" * 20_000
        assert "disk is full" in str(journal.status()["last_error"])
        assert journal.status()["bytes"] == 20_000 * len(held)
        with pytest.raises(RefusedError):
            append(journal, b"z" * 20_000)
        for entry in held[:5]:
            journal.done(entry, NAMES[0])
            journal.done(entry, NAMES[1])
        assert journal.flush()
        assert append(journal, b"z" * 20_000).id > held[-1].id
        assert journal.status()["last_error"] is None
        assert [record.levelname for record in caplog.records].count("WARNING") == 1

    def test_a_request_without_room_is_kept_in_order(self, shelf: Shelf) -> None:
        """Until it is on disk, the entry that it was made from stays owed."""
        journal = shelf.open(max_pages=60)
        held = fill(journal)
        first, *others = held
        request = journal.put_request("langfuse", b"r" * 40_000, compressed=True, spans=4, keys={first.id: KEYS})
        journal.attempt_request(request)
        journal.done(first, "langfuse")
        assert not journal.flush()
        assert shelf.counters.counts["journal_late_writes"] == 3
        found = journal.recover()
        assert first.id in ids(found, "langfuse")
        assert found.requests == {}
        for entry in others:
            journal.done(entry, "langfuse")
            journal.done(entry, "otlp_http/tempo")
        assert journal.flush()
        journal.close()
        found = shelf.open().recover()
        assert {name: ids(found, name) for name in found.entries} == {"otlp_http/tempo": [first.id]}
        assert [(r.id, r.body, r.attempted) for r in found.requests["langfuse"]] == [(request, b"r" * 40_000, True)]

    def test_a_request_done_before_it_was_written(self, shelf: Shelf) -> None:
        journal = shelf.open(max_pages=60)
        held = fill(journal)
        request = journal.put_request("langfuse", b"r" * 40_000, compressed=True, spans=4, keys={held[0].id: KEYS})
        journal.request_done(request)
        assert journal.flush()
        found = journal.recover()
        assert found.requests == {}
        assert found.encoded == {"langfuse": {held[0].id: frozenset(KEYS)}}

    def test_what_is_held_in_memory_is_bounded(self, shelf: Shelf) -> None:
        journal = shelf.open(max_pages=60)
        body = bytes(16 << 20)
        for _ in range(4):
            journal.put_request("langfuse", body, compressed=True, spans=4, keys={})
        with pytest.raises(RefusedError, match="as much in memory as it may"):
            journal.put_request("langfuse", body, compressed=True, spans=4, keys={})

    def test_an_entry_too_large_costs_no_other(self, shelf: Shelf) -> None:
        """Appends that share a commit with one that fails are refused or taken, never lost."""
        journal = shelf.open(max_pages=200)
        answers: dict[int, Entry | str] = {}

        def work(number: int) -> None:
            try:
                answers[number] = append(journal, bytes([number]) * (4_000_000 if number == 3 else 100))
            except RefusedError as error:
                answers[number] = error.reason

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert answers[3] == "disk_full"
        taken = [answer.id for answer in answers.values() if isinstance(answer, Entry)]
        assert sorted(ids(journal.recover(), NAMES[0])) == sorted(taken)

    def test_another_program_holds_the_file(self, shelf: Shelf) -> None:
        """Refused after SQLite's wait; it goes on when the file is free."""
        journal = shelf.open(busy_seconds=0.05)
        entry = append(journal)
        other = sqlite3.connect(shelf.file, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RefusedError) as refused:
                append(journal)
            assert refused.value.reason == "journal_failed"
            journal.done(entry, NAMES[0])
            assert not journal.flush()
            other.execute("ROLLBACK")
        finally:
            other.close()
        assert journal.flush()
        assert ids(journal.recover(), NAMES[0]) == []
        assert ids(journal.recover(), NAMES[1]) == [entry.id]


class TestSize:
    def test_file_shrinks(self, shelf: Shelf) -> None:
        journal = shelf.open()
        entries = [append(journal, bytes(1 << 20), owed=("a",)) for _ in range(40)]
        journal.close()
        full = shelf.file.stat().st_size
        assert full > 40 << 20
        journal = shelf.open()
        for entry in entries:
            journal.done(entry, "a")
        assert journal.flush()
        deadline = time.monotonic() + WAIT
        while _free_pages(shelf.file) * 8192 > 16 << 20 and time.monotonic() < deadline:
            assert journal.flush()
        journal.close()
        assert shelf.file.stat().st_size < full // 2

    def test_freed_space_is_used_again(self, shelf: Shelf) -> None:
        journal = shelf.open()
        for _ in range(300):
            journal.done(append(journal, bytes(200_000), owed=("a",)), "a")
        log = shelf.file.with_name(FILE_NAME + "-wal").stat().st_size
        journal.close()
        assert shelf.file.stat().st_size < 10 << 20
        assert log < 80 << 20


def _free_pages(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    finally:
        connection.close()


class TestDirectory:
    def test_made_for_its_owner_alone(self, shelf: Shelf) -> None:
        append(shelf.open())
        assert stat.S_IMODE(shelf.directory.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in shelf.directory.iterdir()}
        assert modes == dict.fromkeys([FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", "journal.lock"], 0o600)

    def test_takes_rights_from_others(self, shelf: Shelf) -> None:
        shelf.open().close()
        shelf.file.chmod(0o644)
        shelf.open()
        assert stat.S_IMODE(shelf.file.stat().st_mode) == 0o600

    def test_one_process_at_a_time(self, shelf: Shelf) -> None:
        first = shelf.open()
        with pytest.raises(ConfigError, match="another sidecar uses") as refused:
            shelf.open()
        assert refused.value.field == "journal.directory"
        first.close()
        shelf.open()

    def test_is_a_file(self, shelf: Shelf) -> None:
        shelf.directory.write_text("")
        with pytest.raises(ConfigError, match="cannot be kept in"):
            shelf.open()

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=r"cannot be kept in .*Not a directory"):
            Shelf(tmp_path / "file" / "journal").open()

    def test_not_writable(self) -> None:
        """Tried as another user if this one may write everywhere."""
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            directory.chmod(0o555)
            program = (
                "import os, sys\n"
                "from pathlib import Path\n"
                "from otel_langfuse.counters import Counters\n"
                "from otel_langfuse.sidecar.journal import SqliteJournal\n"
                "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
                "try: SqliteJournal(Path(sys.argv[1]), max_bytes=1, max_age=1, fsync=False, counters=Counters())\n"
                "except Exception as error: print(type(error).__name__, error)\n"
            )
            done = subprocess.run(
                [sys.executable, "-c", program, name], capture_output=True, text=True, timeout=WAIT, check=True
            )
            directory.chmod(0o700)
        assert done.stdout.startswith(f"ConfigError the journal cannot be kept in {name}")


class TestDamage:
    """A damaged file never stops the start, and costs no more than what cannot be read."""

    @pytest.fixture
    def filled(self, shelf: Shelf) -> list[Entry]:
        journal = shelf.open()
        entries = [append(journal, bytes([n]) * 30_000) for n in range(40)]
        journal.put_request("langfuse", b"body" * 9000, compressed=True, spans=3, keys={entries[0].id: KEYS[:3]})
        journal.close()
        return entries

    @pytest.mark.parametrize(
        ("content", "says"), [(b"no database" * 500, "is damaged"), (b"SQLite format 3\0" + b"\xff" * 5000, "is damaged")]
    )
    def test_no_database(self, shelf: Shelf, caplog: pytest.LogCaptureFixture, content: bytes, says: str) -> None:
        shelf.directory.mkdir()
        shelf.file.write_bytes(content)
        journal = shelf.open()
        assert journal.recover() == Recovered()
        append(journal)
        (aside,) = shelf.set_aside
        assert aside.read_bytes() == content
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert says in record.getMessage()
        assert aside.name in record.getMessage()
        assert "0 entries and 0 encoded requests were brought over" in record.getMessage()

    def test_zero_length(self, shelf: Shelf) -> None:
        shelf.directory.mkdir()
        shelf.file.write_bytes(b"")
        append(shelf.open())
        assert shelf.set_aside == []

    def test_zero_length_beside_a_log(self, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
        shelf.directory.mkdir()
        shelf.file.write_bytes(b"")
        shelf.file.with_name(FILE_NAME + "-wal").write_bytes(b"frames")
        append(shelf.open())
        (aside,) = shelf.set_aside
        assert aside.with_name(aside.name + "-wal").read_bytes() == b"frames"
        assert "is empty although" in caplog.text

    def test_newer_version(self, shelf: Shelf, filled: list[Entry], caplog: pytest.LogCaptureFixture) -> None:
        connection = sqlite3.connect(shelf.file)
        connection.execute("PRAGMA user_version=99")
        connection.close()
        assert shelf.open().recover() == Recovered()
        assert "has the format 99, and this version reads up to 1" in caplog.text
        (aside,) = shelf.set_aside
        connection = sqlite3.connect(aside)
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (len(filled),)
        connection.close()

    def test_another_programs_database(self, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
        shelf.directory.mkdir()
        connection = sqlite3.connect(shelf.file)
        connection.execute("CREATE TABLE theirs(x)")
        connection.close()
        append(shelf.open())
        assert "another program's database" in caplog.text

    def test_missing_table(self, shelf: Shelf, filled: list[Entry], caplog: pytest.LogCaptureFixture) -> None:
        connection = sqlite3.connect(shelf.file)
        connection.execute("DROP TABLE ledger")
        connection.close()
        journal = shelf.open()
        assert ids(journal.recover(), "langfuse") == [entry.id for entry in filled]
        assert "it has no ledger" in caplog.text

    @pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
    def test_truncated(self, shelf: Shelf, filled: list[Entry], cut: float) -> None:
        with shelf.file.open("r+b") as file:
            file.truncate(int(shelf.file.stat().st_size * cut))
        journal = shelf.open()
        held = journal.recover()
        back = [entry for entry, _ in held.entries.get("langfuse", ())]
        assert len(back) < len(filled)
        self.check(journal, shelf, back, filled)
        assert shelf.set_aside
        append(journal)

    @pytest.mark.parametrize("seed", range(6))
    def test_garbage_in_the_middle(self, shelf: Shelf, filled: list[Entry], seed: int) -> None:
        """Wherever it is: what comes back is right, what does not is counted, the journal works."""
        size = shelf.file.stat().st_size
        shelf.overwrite(8192 + (size - 20_000) // 6 * seed, os.urandom(10_000))
        journal = shelf.open()
        held = journal.recover()
        back = [entry for entry, _ in held.entries.get("langfuse", ())]
        self.check(journal, shelf, back, filled)
        assert shelf.counters.drops or len(back) < len(filled) or shelf.set_aside
        journal.done(append(journal), NAMES[0])
        assert journal.flush()

    def check(self, journal: SqliteJournal, shelf: Shelf, back: list[Entry], filled: list[Entry]) -> None:
        original = {entry.id: bytes([n]) * 30_000 for n, entry in enumerate(filled)}
        lost = 0
        for entry in back:
            payload = journal.payload(entry)
            assert payload in (original[entry.id], None)
            lost += payload is None
        assert shelf.counters.drops.get("journal_damaged", 0) >= 4 * lost

    def test_a_damaged_payload_costs_one_entry(self, shelf: Shelf, filled: list[Entry]) -> None:
        """Damage that SQLite cannot see is found by the checksum, and counted once for two destinations."""
        at = shelf.file.read_bytes().index(bytes([7]) * 5000)
        shelf.overwrite(at, b"\xee" * 10)
        journal = shelf.open()
        held = journal.recover()
        read = [journal.payload(entry) for entry, _ in held.entries["langfuse"]]
        assert [n for n, payload in enumerate(read) if payload is None] == [7]
        assert journal.payload(held.entries["otlp_http/tempo"][7][0]) is None
        assert shelf.counters.drops == {"journal_damaged": 4}
        journal.done(filled[7], "langfuse")
        journal.done(filled[7], "otlp_http/tempo")
        assert journal.flush()
        assert journal.status()["entries"] == 39

    def test_damaged_content_is_not_brought_over(self, shelf: Shelf, filled: list[Entry]) -> None:
        connection = sqlite3.connect(shelf.file)
        connection.execute("DROP TABLE ledger")
        connection.close()
        shelf.overwrite(shelf.file.read_bytes().index(bytes([7]) * 5000), b"\xee" * 10)
        shelf.overwrite(shelf.file.read_bytes().index(b"body" * 1000), b"BODY")
        journal = shelf.open()
        assert journal.status()["entries"] == 39
        assert journal.status()["requests"] == 0
        assert shelf.counters.drops == {"journal_damaged": 4 + 3}

    def test_a_damaged_request_is_left_out(self, shelf: Shelf, filled: list[Entry]) -> None:
        shelf.overwrite(shelf.file.read_bytes().index(b"body" * 1000), b"BODY")
        journal = shelf.open()
        assert journal.recover().requests == {}
        assert shelf.counters.drops == {"journal_damaged": 3}
        assert journal.status()["requests"] == 0

    def test_a_damaged_word_costs_one_entry(self, shelf: Shelf, filled: list[Entry]) -> None:
        connection = sqlite3.connect(shelf.file)
        connection.execute("UPDATE entries SET signal = CAST(x'ff74' AS TEXT) WHERE id = ?", (filled[3].id,))
        connection.execute(
            "UPDATE owed SET destination = CAST(x'ff74' AS TEXT) WHERE entry_id = ?  AND destination = 'langfuse'",
            (filled[5].id,),
        )
        connection.commit()
        connection.close()
        journal = shelf.open()
        held = journal.recover()
        assert ids(held, "langfuse") == [entry.id for n, entry in enumerate(filled) if n not in (3, 5)]
        assert ids(held, "otlp_http/tempo") == [entry.id for n, entry in enumerate(filled) if n != 3]
        assert shelf.counters.drops == {"journal_damaged": 4}
        assert [(entries, items) for name, entries, items in journal.destinations() if name not in NAMES] == [(1, 4)]

    def test_damage_while_it_runs(self, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
        """The writer sets the file aside, brings over what it can and goes on."""
        journal = shelf.open()
        filled = [append(journal, bytes([n]) * 30_000) for n in range(200)]
        _checkpoint(shelf.file)  # After another program's write SQLite reads the file again.
        shelf.overwrite(8192, os.urandom(shelf.file.stat().st_size - 8192))
        assert journal.payload(Entry(filled[99].id, Signal.TRACES, 4, 30_000, 0.0)) is None
        for entry in filled[:150]:
            journal.done(entry, NAMES[0])
            journal.done(entry, NAMES[1])
        assert journal.flush()
        assert len(shelf.set_aside) == 1
        assert "is damaged" in caplog.text
        assert shelf.counters.drops["journal_damaged"] > 0
        entry = append(journal, b"new", owed=("debug",))
        assert entry.id > filled[-1].id
        assert journal.status()["last_error"] is None
        journal.close()
        found = shelf.open().recover()
        assert ids(found, "debug") == [entry.id]

    def test_damage_again_and_again(self, shelf: Shelf) -> None:
        """A disk that damages everything is not filled with what is set aside; new data are refused in the end."""
        journal = shelf.open()
        for _ in range(5):
            filled = [append_or_none(journal, bytes(30_000)) for _ in range(200)]
            if None in filled:
                break
            journal.flush()
            _checkpoint(shelf.file)
            shelf.overwrite(8192, os.urandom(shelf.file.stat().st_size - 8192))
            for entry in filled:
                journal.done(entry or Entry(0, Signal.TRACES, 0, 0, 0.0), NAMES[0])
                journal.done(entry or Entry(0, Signal.TRACES, 0, 0, 0.0), NAMES[1])
            journal.flush()
        assert len(shelf.set_aside) == 3
        journal.close()
        append(shelf.open())

    def test_truncated_log(self, shelf: Shelf) -> None:
        """A log that ends within a commit costs that commit, and what came after."""
        journal = shelf.open()
        entries = [append(journal, bytes([n]) * 10_000) for n in range(10)]
        copy = Shelf(shelf.directory.with_name("copy"))
        copy.directory.mkdir()
        for suffix in ("", "-wal"):
            copy.file.with_name(FILE_NAME + suffix).write_bytes(shelf.file.with_name(FILE_NAME + suffix).read_bytes())
        log = copy.file.with_name(FILE_NAME + "-wal")
        with log.open("r+b") as file:
            file.truncate(log.stat().st_size - 5000)
        second = copy.open()
        found = [entry for entry, _ in second.recover().entries["langfuse"]]
        assert [entry.id for entry in found] == [entry.id for entry in entries[:9]]
        assert [second.payload(entry) for entry in found] == [bytes([n]) * 10_000 for n in range(9)]
        copy.close()


class Model(RuleBasedStateMachine):
    """The journal on disk against dictionaries; opening it again is one of the steps."""

    entries = Bundle("entries")
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.shelf = Shelf(Path(self.directory.name))
        self.journal = self.shelf.open(cache_bytes=600)
        self.held: dict[int, tuple[bytes, int, float]] = {}
        self.owed: dict[tuple[int, str], bool] = {}
        self.encoded: dict[tuple[int, str], list[tuple[bytes, bytes]]] = {}
        self.bodies: dict[int, tuple[str, bytes, int, bool, float]] = {}

    def teardown(self) -> None:
        self.shelf.close()
        self.directory.cleanup()

    @initialize()
    def start_empty(self) -> None:
        assert self.journal.recover() == Recovered()

    @rule(
        target=entries,
        payload=st.binary(max_size=300),
        items=st.integers(0, 9),
        names=st.sets(st.sampled_from(NAMES), min_size=1),
    )
    def append(self, payload: bytes, items: int, names: set[str]) -> Entry:
        entry = self.journal.append(Signal.LOGS, payload, items, sorted(names))
        self.held[entry.id] = (payload, items, self.shelf.clock.now)
        self.owed |= {(entry.id, name): False for name in names}
        return entry

    @rule(entry=entries, name=st.sampled_from(NAMES))
    def attempt(self, entry: Entry, name: str) -> None:
        self.journal.attempt([entry], name)
        if (entry.id, name) in self.owed:
            self.owed[entry.id, name] = True

    @rule(entry=entries, name=st.sampled_from(NAMES))
    def done(self, entry: Entry, name: str) -> None:
        self.journal.done(entry, name)
        self.settle(entry.id, name)

    @rule(target=requests, name=st.sampled_from(NAMES), body=st.binary(max_size=300), of=st.lists(entries, max_size=3))
    def put_request(self, name: str, body: bytes, of: list[Entry]) -> int:
        keys = {entry.id: KEYS[: 1 + entry.id % 4] for entry in of}
        request = self.journal.put_request(name, body, compressed=True, spans=len(keys), keys=keys)
        self.bodies[request] = (name, body, len(keys), False, self.shelf.clock.now)
        for entry_id, spans in keys.items():
            if (entry_id, name) in self.owed:
                self.encoded.setdefault((entry_id, name), []).extend(spans)
        return request

    @rule(target=requests, request=consumes(requests), parts=st.lists(st.binary(max_size=100), max_size=3))
    def replace_request(self, request: int, parts: list[bytes]) -> Any:
        new = self.journal.replace_request(request, [(part, False, 1) for part in parts])
        if (old := self.bodies.pop(request, None)) is not None:
            for part_id, part in zip(new, parts, strict=True):
                self.bodies[part_id] = (old[0], part, 1, False, old[4])
        return multiple(*new)

    @rule(request=requests)
    def attempt_request(self, request: int) -> None:
        self.journal.attempt_request(request)
        if request in self.bodies:
            name, body, spans, _, at = self.bodies[request]
            self.bodies[request] = (name, body, spans, True, at)

    @rule(request=requests)
    def request_done(self, request: int) -> None:
        self.journal.request_done(request)
        self.bodies.pop(request, None)

    @rule(name=st.sampled_from(NAMES))
    def forget(self, name: str) -> None:
        self.journal.forget(name)
        for claim in [claim for claim in self.owed if claim[1] == name]:
            self.settle(*claim)
        self.bodies = {key: value for key, value in self.bodies.items() if value[0] != name}

    @rule(seconds=st.sampled_from([-500, 1000, 2000]))
    def expire(self, seconds: int) -> None:
        self.shelf.clock.now += seconds
        limit = self.shelf.clock.now - 3600
        lost: dict[str, int] = {}
        for entry_id, name in list(self.owed):
            _, items, at = self.held[entry_id]
            if at < limit:
                lost[name] = lost.get(name, 0) + max(items - len(self.encoded.get((entry_id, name), ())), 0)
        for name, _, spans, _, at in self.bodies.values():
            if at < limit:
                lost[name] = lost.get(name, 0) + spans
        assert self.journal.expire(self.shelf.clock.now, requests=True) == lost
        for entry_id, name in [claim for claim in self.owed if self.held[claim[0]][2] < limit]:
            self.settle(entry_id, name)
        self.bodies = {key: value for key, value in self.bodies.items() if value[4] >= limit}

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = self.shelf.open(cache_bytes=600)

    @rule()
    def compare(self) -> None:
        found = self.journal.recover()
        assert {(e.id, name): attempted for name, all_of in found.entries.items() for e, attempted in all_of} == self.owed
        for all_of in found.entries.values():
            assert [e.id for e, _ in all_of] == sorted(e.id for e, _ in all_of)
        encoded = {(entry_id, name): set(spans) for name, of in found.encoded.items() for entry_id, spans in of.items()}
        assert encoded == {claim: set(spans) for claim, spans in self.encoded.items()}
        assert {r.id: (name, r.body, r.spans, r.attempted) for name, all_of in found.requests.items() for r in all_of} == {
            request: value[:4] for request, value in self.bodies.items()
        }

    @rule(entry=entries)
    def payload(self, entry: Entry) -> None:
        assert self.journal.flush()
        expected = self.held[entry.id][0] if entry.id in self.held else None
        assert self.journal.payload(Entry(entry.id, entry.signal, entry.items, entry.size, entry.received_at)) == expected
        if entry.payload is not None and expected is not None:
            assert entry.payload == expected

    @invariant()
    def adds_up(self) -> None:
        assert self.journal.flush()
        status = self.journal.status()
        assert (status["entries"], status["requests"]) == (len(self.held), len(self.bodies))
        assert status["bytes"] == sum(len(v[0]) for v in self.held.values()) + sum(len(v[1]) for v in self.bodies.values())
        assert not self.shelf.counters.drops

    def settle(self, entry_id: int, name: str) -> None:
        self.owed.pop((entry_id, name), None)
        self.encoded.pop((entry_id, name), None)
        if not any((entry_id, other) in self.owed for other in NAMES):
            self.held.pop(entry_id, None)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
