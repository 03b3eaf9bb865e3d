"""What a span costs, precisely: processes that live side by side and take turns.

A processor adds a tenth to what a span costs the application's thread, and the machine's speed differs by more than that
from one process to the next. So several processes of each candidate live at once, only one of them works at a time, and each
round of turns is compared with itself. The process's CPU is counted until what was made in a turn has been sent.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean
from typing import Any

from bench.plan import GROWTH
from bench.running import Child, Sink, command_for
from bench.worker import candidate_of, drive

__all__ = ["BY_TURNS", "CANDIDATES", "take_turns"]

BY_TURNS = ("turns", "growth")
"""What is measured by turns."""

CANDIDATES = ("sdk", "otlp", "fanout_http", "fanout_grpc", "langfuse", "ours_unlinked", "ours", "ours_fanout")
_PROCESSES = 2  # of each candidate: where its memory happens to lie makes a difference, too
_GROWING = ("sdk", "ours")
_RATE = 1000
_SPANS = 1100  # in a turn: two full batches of a stock processor, which are sent while spans are made
_WARM = 80
_ANSWER = "TURN "


@dataclass(frozen=True)
class Seat:
    """Whose turn it is.

    Attributes:
        task: The ``candidate``, the ``size`` of its messages and, where growth is measured, ``shape`` and ``number``.
        processes: How many of it live.
        warm: How many spans it makes before the first turn.
    """

    task: dict[str, Any]
    processes: int = 1
    warm: int = _WARM


def take_turns(sink: Sink, group: str, number: int, *, quick: bool) -> list[dict[str, Any]]:
    """One sample for each candidate, and for each number of things at a time: the mean over its processes and turns.

    Args:
        sink: Where the spans go.
        group: One of `BY_TURNS`.
        number: The round, for the samples.
        quick: One short turn each, to see that everything runs.
    """
    turns, spans = (1, _WARM) if quick else (6, _SPANS)
    return [
        {"group": group, "round": number, "measure": group, **seat.task, "values": values}
        for table in _tables(group, quick=quick)
        for seat, values in _around(sink, table, turns, spans)
    ]


def _tables(group: str, *, quick: bool) -> list[list[Seat]]:
    """Who is compared with whom."""
    if group == "turns":
        return [[Seat({"candidate": name, "size": 4096}, 1 if quick else _PROCESSES) for name in CANDIDATES]]
    return [
        [
            # A long trace is as long as it gets on average when its first turn comes.
            Seat({"candidate": name, "size": 512, "shape": shape, "number": number}, warm=max(number // 2, _WARM))
            for number in (numbers[:2] if quick else numbers)
            for name in _GROWING
        ]
        for shape, numbers in GROWTH.items()
    ]


def _around(sink: Sink, table: list[Seat], turns: int, spans: int) -> Iterator[tuple[Seat, dict[str, float]]]:
    """Each seat with what it spent, on average."""
    spent: list[list[dict[str, float]]] = [[] for _ in table]
    with ExitStack() as stack:
        living = []
        for seat, found in zip(table, spent, strict=True):
            for _ in range(seat.processes):
                task = {**seat.task, "endpoints": sink.endpoints()}
                child = Child(*command_for(task["candidate"], task, "bench.turns"))
                stack.callback(child.end, 30.0)
                living.append((child, seat.warm, found))
        for child, warm, _ in living:
            _turn(child, warm)  # imports, threads and connections, too
        for turn in range(turns):
            for child, _, found in living if turn % 2 else reversed(living):
                found.append(_turn(child, spans))
    for seat, found in zip(table, spent, strict=True):
        yield seat, {metric: mean(turn[metric] for turn in found) for metric in found[0]}


def _turn(child: Child, spans: int) -> dict[str, float]:
    """Has a process make spans; µs of its application's thread and of the process for each."""
    child.tell(str(spans))
    answer: dict[str, float] = json.loads(child.hear(_ANSWER))
    return answer


def main(argv: list[str]) -> None:
    """Makes as many spans as each line of standard input says, and answers with a line of its own."""
    from bench import workload

    task: dict[str, Any] = json.loads(argv[0])
    candidate = candidate_of(task)
    texts = workload.Texts(task["size"])
    work = workload.work_of(candidate.tracer, task.get("shape", "pair"), task.get("number", 1))
    for line in sys.stdin:
        before = time.process_time()
        made, spent = drive(work.unit, texts, int(line), _RATE, work.spans)
        candidate.flush()
        process = time.process_time() - before
        answer = {"app_us": spent / made * 1e6, "process_us": process / made * 1e6}
        sys.stdout.write(f"{_ANSWER}{json.dumps(answer)}\n")
        sys.stdout.flush()
    work.close()
    candidate.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
