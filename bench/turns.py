"""What the application's thread pays, precisely: processes that live side by side and take turns.

A processor adds a tenth to what a span costs, and the machine's speed differs by more than that from one process to the
next. So several processes of each candidate live at once, only one of them works at a time, and each round of turns is
compared with itself. Whatever a candidate does between two turns, such as sending what is left, is not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import mean
from typing import Any

from bench.envs import ROOT
from bench.running import Sink, command_for
from bench.worker import candidate_of, drive

__all__ = ["CANDIDATES", "take_turns"]

CANDIDATES = ("sdk", "otlp", "langfuse", "ours_unlinked", "ours", "ours_fanout")
_PROCESSES = 2  # of each candidate: where its memory happens to lie makes a difference, too
_RATE = 1000
_SPANS = 1100  # in a turn: two full batches of a stock processor, which are sent while spans are made


class _Process:
    """A process that makes spans when it is told to."""

    def __init__(self, candidate: str, size: int, endpoints: dict[str, str]) -> None:
        task = {"candidate": candidate, "size": size, "endpoints": endpoints}
        command, env = command_for(candidate, task, "bench.turns")
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.candidate = candidate

    def turn(self, spans: int) -> float:
        """Makes spans; µs of the application's thread for each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{spans}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("TURN "):
                return float(line[5:])
        message = f"{self.candidate} ended before its turn was over"
        raise RuntimeError(message)

    def end(self) -> None:
        """Lets it shut down."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()


def take_turns(sink: Sink, number: int, *, quick: bool, size: int = 4096) -> list[dict[str, Any]]:
    """One sample for each candidate: the mean over its processes and turns.

    Args:
        sink: Where the spans go.
        number: The round, for the samples.
        quick: One short turn each, to see that everything runs.
        size: Bytes of messages.
    """
    turns, spans = (1, 80) if quick else (6, _SPANS)
    with ExitStack() as stack:
        names = [name for name in CANDIDATES for _ in range(1 if quick else _PROCESSES)]
        living = [stack.enter_context(_living(name, size, sink)) for name in names]
        for process in living:
            process.turn(80)  # imports, threads and connections
        spent: dict[str, list[float]] = {name: [] for name in CANDIDATES}
        for turn in range(turns):
            for process in living if turn % 2 else reversed(living):
                spent[process.candidate].append(process.turn(spans))
    return [
        {
            "group": "turns",
            "round": number,
            "measure": "turns",
            "candidate": name,
            "size": size,
            "values": {"app_us": mean(found)},
        }
        for name, found in spent.items()
    ]


@contextmanager
def _living(candidate: str, size: int, sink: Sink) -> Iterator[_Process]:
    process = _Process(candidate, size, sink.endpoints())
    try:
        yield process
    finally:
        process.end()


def main(argv: list[str]) -> None:
    """Makes as many spans as each line of standard input says, and answers with a line of its own."""
    from bench import workload

    task: dict[str, Any] = json.loads(argv[0])
    candidate = candidate_of(task)
    texts, unit = workload.Texts(task["size"]), workload.pair(candidate.tracer)
    for line in sys.stdin:
        made, spent = drive(unit, texts, int(line), _RATE)
        candidate.flush()
        sys.stdout.write(f"TURN {spent / made * 1e6}\n")
        sys.stdout.flush()
    candidate.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
