"""``python -m bench``: measures everything side by side and writes ``results.md``, ``results.json`` and plots."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.candidates import CANDIDATES
from bench.envs import ENVS, ROOT, python_of
from bench.plan import GROUPS, Step, steps
from bench.report import write_report
from bench.running import Sink, run
from bench.turns import BY_TURNS, take_turns


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything runs")
    parser.add_argument("--only", action="append", choices=(*GROUPS, *BY_TURNS), help="measure only this; may be repeated")
    parser.add_argument("--rounds", type=int, default=None, help="interleaved rounds (5; 1 with --quick)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="where results go")
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="measure the package in this directory")
    parser.add_argument("--keep", action="store_true", help="keep what results.json has of groups not measured now")
    parser.add_argument("--report", action="store_true", help="write tables and plots from results.json, measure nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    raw = options.out / "results.json"
    if not options.report:
        rounds = options.rounds or (1 if options.quick else 5)
        with tempfile.TemporaryDirectory() as place:
            # A copy, so that a change to the source during the run does not mix two versions.
            source = Path(place) / "src"
            shutil.copytree(options.source, source, ignore=shutil.ignore_patterns("__pycache__"))
            compileall.compile_dir(source, quiet=1)
            os.environ["BENCH_SOURCE"] = str(source)
            groups = options.only or [*GROUPS, *BY_TURNS]
            before = json.loads(raw.read_text())["samples"] if options.keep and raw.exists() else []
            measure(groups, rounds, raw, [s for s in before if s["group"] not in groups], quick=options.quick)
    results = json.loads(raw.read_text())
    (options.out / "results.md").write_text(write_report(results))
    subprocess.run([python_of("bench-plots"), "-m", "bench.plots", str(options.out)], cwd=ROOT, check=False)
    print(f"wrote {options.out / 'results.md'}")
    return 0


def measure(groups: list[str], rounds: int, raw: Path, samples: list[dict[str, Any]], *, quick: bool) -> None:
    """Runs all steps of all rounds; keeps what there is after each round."""
    for name in ENVS:
        python_of(name)
    begin = time.time()
    order = random.Random(1)
    with Sink() as sink:
        for number in range(rounds):
            todo = [
                s
                for s in steps((group for group in groups if group in GROUPS), quick=quick, has_grpc=sink.has_grpc)
                if s.rounds is None or number < s.rounds
            ]
            patient = [step for step in todo if step.measure == "dead"]
            todo = [step for step in todo if step.measure != "dead"]
            order.shuffle(todo)
            for at, step in enumerate(todo):
                print(f"round {number + 1}/{rounds} {at + 1}/{len(todo)} {step.measure} {step.candidate} {step.task}")
                samples += one(sink, step, number)
            for group in (group for group in BY_TURNS if group in groups):
                print(f"round {number + 1}/{rounds} {group}, by turns")
                try:
                    samples += take_turns(sink, group, number, quick=quick)
                except (RuntimeError, OSError) as error:
                    print(f"failed: {error}", file=sys.stderr)
            # These do nothing but wait, so they can wait together.
            with ThreadPoolExecutor(len(patient) or 1) as pool:
                for found in pool.map(lambda step, n=number: one(sink, step, n, count=False), patient):
                    samples += found
            done = {"machine": machine(), "rounds": number + 1, "seconds": time.time() - begin, "samples": samples}
            raw.write_text(json.dumps(done, indent=1) + "\n")


def one(sink: Sink, step: Step, number: int, *, count: bool = True) -> list[dict[str, Any]]:
    """One step; a measurement that fails is reported and left out."""
    task = {**step.task, "measure": step.measure, "candidate": step.candidate}
    if count:
        sink.reset()
    try:
        values = run({**task, "endpoints": sink.endpoints(step.tempo, step.langfuse)})
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"failed: {error}", file=sys.stderr)
        return []
    if "begin" in values:
        values["exit_s"] = values.pop("gone") - values.pop("begin")
    values.pop("gone", None)
    if "made" in values:
        counts = sink.count()
        values["arrived"] = {name: found["spans"] for name, found in counts.items()}
        values["bytes"] = {name: found["bytes"] for name, found in counts.items()}
        values |= lost(step.candidate, values)
    return [{"group": step.group, "round": number, **task, "values": values}]


def lost(candidate: str, values: dict[str, Any]) -> dict[str, int]:
    """How many spans each endpoint should have got and did not."""
    kind = CANDIDATES[candidate]
    due = {"tempo": kind.tempo, "langfuse": kind.langfuse and kind.all_rows}
    return {f"lost_{name}": values["made"] - values["arrived"][name] for name, wanted in due.items() if wanted}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    packages = ["opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http", "protobuf", "urllib3", "otel-langfuse"]
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {name: version(name) for name in packages} | {"langfuse": "5.0.4"},
    }


if __name__ == "__main__":
    sys.exit(main())
