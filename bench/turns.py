"""What a span costs, precisely: processes that live side by side and take turns.

A processor adds a tenth to what a span costs the application's thread, and the machine's speed differs by more than that
from one process to the next. So several processes of each candidate live at once, only one of them works at a time, and each
round of turns is compared with itself. The process's CPU is counted until what was made in a turn has been sent.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from statistics import mean
from typing import Any

from bench.running import Child, Sink, command_for
from bench.worker import candidate_of, drive

__all__ = ["CANDIDATES", "take_turns"]

CANDIDATES = ("sdk", "otlp", "fanout_http", "fanout_grpc", "langfuse", "ours_unlinked", "ours", "ours_fanout")
_PROCESSES = 2  # of each candidate: where its memory happens to lie makes a difference, too
_SIZE = 4096
_RATE = 1000
_SPANS = 1100  # in a turn: two full batches of a stock processor, which are sent while spans are made
_ANSWER = "TURN "


def take_turns(sink: Sink, number: int, *, quick: bool) -> list[dict[str, Any]]:
    """One sample for each candidate: the mean over its processes and turns.

    Args:
        sink: Where the spans go.
        number: The round, for the samples.
        quick: One short turn each, to see that everything runs.
    """
    turns, spans = (1, 80) if quick else (6, _SPANS)
    with ExitStack() as stack:
        living = []
        for name in CANDIDATES:
            for _ in range(1 if quick else _PROCESSES):
                task = {"candidate": name, "size": _SIZE, "endpoints": sink.endpoints()}
                child = Child(*command_for(name, task, "bench.turns"))
                stack.callback(child.end, 30.0)
                living.append((name, child))
        for _, child in living:
            _turn(child, 80)  # imports, threads and connections
        spent: dict[str, list[dict[str, float]]] = {name: [] for name in CANDIDATES}
        for turn in range(turns):
            for name, child in living if turn % 2 else reversed(living):
                spent[name].append(_turn(child, spans))
    sample = {"group": "turns", "round": number, "measure": "turns", "size": _SIZE}
    return [
        {**sample, "candidate": name, "values": {metric: mean(turn[metric] for turn in found) for metric in found[0]}}
        for name, found in spent.items()
    ]


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
    texts, unit = workload.Texts(task["size"]), workload.pair(candidate.tracer)
    for line in sys.stdin:
        before = time.process_time()
        made, spent = drive(unit, texts, int(line), _RATE)
        candidate.flush()
        process = time.process_time() - before
        answer = {"app_us": spent / made * 1e6, "process_us": process / made * 1e6}
        sys.stdout.write(f"{_ANSWER}{json.dumps(answer)}\n")
        sys.stdout.flush()
    candidate.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
