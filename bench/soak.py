"""``python -m bench.soak``: an endpoint that is away at first must cost nothing but memory.

1,000 spans a second in traces of two, to an endpoint that answers 503 for the first 20 seconds. At the end every span
must have arrived, none of them twice, as told by the span ids in what the endpoint took. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.envs import ROOT
from bench.running import Sink, command_for

__all__ = ["main", "soak"]

_RATE = 1000


def soak(seconds: float, away: float, *, candidate: str = "ours", size: int = 4096) -> dict[str, Any]:
    """Runs the soak; what came out of it."""
    with Sink() as sink:
        task = {"candidate": candidate, "endpoints": sink.endpoints(), "seconds": seconds, "size": size}
        command, env = command_for(candidate, task, "bench.soak")
        sink.away("langfuse", away)
        limit = seconds + away + 300
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, timeout=limit, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("SOAK ")]
        if not lines:
            message = f"the measured process failed with {done.returncode}"
            raise RuntimeError(message)
        result: dict[str, Any] = json.loads(lines[-1][5:])
        counts = sink.count()["langfuse"]
    result["refused requests"] = counts["refused"]
    result["arrived"] = counts["spans"]
    result["lost"] = result["made"] - counts["unique"]
    result["twice"] = counts["spans"] - counts["unique"]
    return result


def _measured(task: dict[str, Any]) -> dict[str, Any]:
    """In the measured process: makes spans at a steady rate, notes its own memory and how long ends take."""
    from bench import workload
    from bench.candidates import Endpoints, build

    candidate = build(task["candidate"], Endpoints(**task["endpoints"]))
    texts = workload.Texts(task["size"])
    ends: list[int] = []
    traces: list[int] = []
    unit = workload.timed_pair(candidate.tracer, time.perf_counter_ns, ends, traces)
    memory = [_memory()]
    made, begin = 0, time.perf_counter()
    while made < task["seconds"] * _RATE:
        messages = texts.next()
        ahead = begin + made / _RATE - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
        made += unit(messages)
        if made % _RATE == 0:
            memory.append(_memory())
    flush = time.perf_counter()
    candidate.provider.force_flush(120_000)
    flushed = time.perf_counter() - flush
    memory.append(_memory())
    candidate.shutdown()
    return {
        "made": made,
        "flush, s": round(flushed, 2),
        "memory at start, MB": round(memory[0]),
        "memory at most, MB": round(max(memory)),
        "memory at end, MB": round(memory[-1]),
        "memory each second, MB": [round(mb) for mb in memory],
        "end p50, µs": _share(ends, 0.5),
        "end p99, µs": _share(ends, 0.99),
        "trace p99, µs": _share(traces, 0.99),
        "status": {key: value for key, value in candidate.status().items() if key in ("counters", "dropped")},
    }


def _share(nanoseconds: list[int], share: float) -> float:
    ordered = sorted(nanoseconds)
    return round(ordered[int((len(ordered) - 1) * share)] / 1e3, 1)


def _memory() -> float:
    """Resident memory in MB: now where the system says so, else the most so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(argv: list[str] | None = None) -> int:
    """The command line; with a JSON argument, the measured process."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0].startswith("{"):
        sys.stdout.write("\nSOAK " + json.dumps(_measured(json.loads(argv[0]))) + "\n")
        return 0
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long spans are made")
    parser.add_argument("--away", type=float, default=20.0, help="how long the endpoint answers 503")
    parser.add_argument("--candidate", default="ours", help="who is measured (see bench.candidates)")
    options = parser.parse_args(argv)
    result = soak(options.seconds, options.away, candidate=options.candidate)
    for name, value in result.items():
        print(f"{name:26} {value}")
    sound = result["lost"] == 0 and result["twice"] == 0
    print("every span arrived once" if sound else "LOST OR DOUBLED SPANS")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
