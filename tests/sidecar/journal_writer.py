"""The program that the crash tests kill: it writes to a journal and says what was acknowledged.

Called with a directory, a seed, ``fsync`` or ``nofsync``, and a mode:

- ``load``: threads append, encode and settle until they are killed. Lines on stdout, each written whole:
  ``a ID SEED SIZE`` (append returned), ``p ID NAME`` (``done`` is about to be called), ``s ID NAME`` (it was committed),
  ``r REQUEST SEED SIZE ID`` (``put_request`` returned), ``q REQUEST`` and ``t REQUEST`` likewise for ``request_done``.
- ``limit``: the process may write no file beyond a size; prints what an append is answered before and after.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import threading
from pathlib import Path

from otel_langfuse.counters import Counters
from otel_langfuse.sidecar.entry import RefusedError, Signal
from otel_langfuse.sidecar.journal import SqliteJournal

NAMES = ("langfuse", "otlp_http/tempo")


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def keys_of(entry_id: int) -> list[tuple[bytes, bytes]]:
    return [(entry_id.to_bytes(16, "big"), bytes([0, 0, 0, 0, 0, 0, 1, n])) for n in range(3)]


def say(*words: object) -> None:
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


def load(journal: SqliteJournal, seed: int) -> None:
    draw = random.Random(seed)
    while True:
        size = draw.choice((10, 1000, 30_000))
        body_seed = draw.randrange(1 << 40)
        entry = journal.append(Signal.TRACES, content(body_seed, size), 3, NAMES)
        say("a", entry.id, body_seed, size)
        chance = draw.random()
        if chance < 0.6:
            request = journal.put_request(
                NAMES[0], content(body_seed + 1, size // 2), compressed=True, spans=3, keys={entry.id: keys_of(entry.id)}
            )
            say("r", request, body_seed + 1, size // 2, entry.id)
            if chance < 0.3:
                journal.attempt_request(request)
                say("q", request)
                journal.request_done(request)
                if journal.flush():
                    say("t", request)
        if chance > 0.4:
            name = draw.choice(NAMES)
            say("p", entry.id, name)
            journal.done(entry, name)
            if chance > 0.7 and journal.flush():
                say("s", entry.id, name)


def limit(journal: SqliteJournal) -> None:
    first = journal.append(Signal.TRACES, b"a" * 1000, 1, NAMES)
    used = (Path(str(journal.status()["directory"])) / "journal.sqlite3-wal").stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (used + 1, hard))
    try:
        journal.append(Signal.TRACES, b"b" * 1_000_000, 1, NAMES)
        say("accepted")
    except RefusedError as error:
        say(error.reason)
    say("served" if journal.payload(first) == b"a" * 1000 else "lost")
    journal.done(first, NAMES[0])
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    second = journal.append(Signal.TRACES, b"b" * 1_000_000, 1, NAMES)
    say("flushed" if journal.flush() else "late", second.id > first.id)
    journal.close()


def main() -> None:
    directory, seed, fsync, mode = sys.argv[1:]
    journal = SqliteJournal(
        Path(directory), max_bytes=1 << 30, max_age=1e9, fsync=fsync == "fsync", counters=Counters(), cache_bytes=100_000
    )
    if mode == "limit":
        limit(journal)
        return
    threads = [threading.Thread(target=load, args=(journal, int(seed) * 100 + n), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
