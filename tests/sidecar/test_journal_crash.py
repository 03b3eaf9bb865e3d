"""What a journal promised before ``kill -9`` is there afterwards.

``OTEL_LANGFUSE_CRASH_ROUNDS`` raises the number of rounds.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from otel_langfuse.counters import Counters
from otel_langfuse.sidecar.journal import SqliteJournal
from sidecar import journal_writer

ROUNDS = int(os.environ.get("OTEL_LANGFUSE_CRASH_ROUNDS", "5"))
PROGRAM = Path(journal_writer.__file__)
NAMES = journal_writer.NAMES


@dataclass
class Said:
    """What the killed processes said, over all rounds."""

    entries: dict[int, tuple[int, int]] = field(default_factory=dict)
    requests: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    may_be_settled: set[tuple[int, str]] = field(default_factory=set)
    settled: set[tuple[int, str]] = field(default_factory=set)
    may_be_gone: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)

    def hear(self, line: bytes) -> bool:
        if not line.endswith(b"\n"):
            return False  # Cut off by the kill.
        kind, *words = line.decode().split()
        if kind == "a":
            self.entries[int(words[0])] = (int(words[1]), int(words[2]))
        elif kind == "r":
            self.requests[int(words[0])] = (int(words[1]), int(words[2]), int(words[3]))
        elif kind in "ps":
            (self.settled if kind == "s" else self.may_be_settled).add((int(words[0]), words[1]))
        else:
            (self.gone if kind == "t" else self.may_be_gone).add(int(words[0]))
        return kind == "a"


def run_and_kill(directory: Path, seed: int, fsync: str, acknowledged: int, said: Said) -> None:
    """Runs the program until it has acknowledged so many entries, kills it, and hears what is left in the pipe."""
    command = [sys.executable, str(PROGRAM), str(directory), str(seed), fsync, "load"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        alarm = threading.Timer(60, process.kill)
        alarm.start()
        try:
            assert process.stdout is not None
            heard = 0
            for line in process.stdout:
                heard += said.hear(line)
                if heard == acknowledged:
                    process.kill()
        finally:
            process.kill()
            alarm.cancel()
            alarm.join()
    assert heard >= acknowledged


def check(directory: Path, said: Said) -> None:
    counters = Counters()
    journal = SqliteJournal(directory, max_bytes=1 << 30, max_age=1e9, fsync=False, counters=counters)
    try:
        held = journal.recover()
        for name in NAMES:
            there = {entry.id: entry for entry, _ in held.entries.get(name, ())}
            due = {entry_id for entry_id in said.entries if (entry_id, name) not in said.may_be_settled}
            assert due <= there.keys(), "acknowledged and never settled"
            assert not {entry_id for entry_id in there if (entry_id, name) in said.settled}, "settled, and back again"
            for entry_id in there.keys() & said.entries.keys():
                assert journal.payload(there[entry_id]) == journal_writer.content(*said.entries[entry_id])
        requests = {request.id: request for request in held.requests.get(NAMES[0], ())}
        assert said.requests.keys() - said.may_be_gone <= requests.keys()
        assert not requests.keys() & said.gone
        owed = {entry.id for entry, _ in held.entries.get(NAMES[0], ())}
        assert held.encoded.get(NAMES[0], {}).keys() <= owed, "a ledger for what is settled"
        for request_id, (seed, size, entry_id) in said.requests.items():
            if request_id in requests:
                assert requests[request_id].body == journal_writer.content(seed, size)
            if entry_id in owed:
                assert held.encoded[NAMES[0]][entry_id] == frozenset(journal_writer.keys_of(entry_id))
        assert not counters.drops
        assert not list(directory.glob("*damaged*"))
    finally:
        journal.close()


@pytest.mark.parametrize("fsync", ["fsync", "nofsync"])
def test_survives_kill(tmp_path: Path, fsync: str) -> None:
    """Round after round in one directory, killed at a random moment."""
    said = Said()
    draw = random.Random(f"{fsync} {ROUNDS}")
    for number in range(ROUNDS):
        run_and_kill(tmp_path, number, fsync, draw.randint(1, 400), said)
        check(tmp_path, said)
    assert said.settled
    assert said.gone


@pytest.mark.parametrize("sight", ["journal.lock", "journal.sqlite3", "journal.sqlite3-wal"])
def test_killed_while_it_opens(tmp_path: Path, sight: str) -> None:
    """A kill while the file is being made leaves something to start from."""
    command = [sys.executable, str(PROGRAM), str(tmp_path), "1", "nofsync", "load"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / sight).exists() and time.monotonic() < deadline:
            pass
        process.kill()
    assert (tmp_path / sight).exists()
    check(tmp_path, Said())


def test_file_size_limit(tmp_path: Path) -> None:
    """The operating system refuses to let the file grow: new data are refused, old are served, then it goes on."""
    command = [sys.executable, str(PROGRAM), str(tmp_path), "1", "fsync", "limit"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["journal_failed", "served", "flushed", "True"]
    journal = SqliteJournal(tmp_path, max_bytes=1 << 30, max_age=1e9, fsync=False, counters=Counters())
    try:
        held = journal.recover()
        assert [entry.size for entry, _ in held.entries[NAMES[0]]] == [1_000_000]
        assert [entry.size for entry, _ in held.entries[NAMES[1]]] == [1000, 1_000_000]
    finally:
        journal.close()
