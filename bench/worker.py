"""One measurement in one process: ``python -m bench.worker '{"measure": …}'`` prints its result as a JSON line."""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["candidate_of", "drive", "main"]

CHUNK = 40  # spans between two looks at the clock


def main(argv: list[str]) -> None:
    """Runs what the JSON argument asks for."""
    task: dict[str, Any] = json.loads(argv[0])
    result = MEASURES[task["measure"]](task)
    sys.stdout.write("\nBENCH " + json.dumps(result) + "\n")
    sys.stdout.flush()


def candidate_of(task: dict[str, Any]) -> Any:
    """The candidate of a task, set up in this process."""
    from bench.candidates import Endpoints, build

    return build(task["candidate"], Endpoints(**task["endpoints"]))


def drive(unit: Any, texts: Any, spans: int, rate: float, per_unit: int = 2) -> tuple[int, float]:
    """Creates ``spans`` spans at ``rate`` a second (0: as fast as it goes); returns how many, and CPU of this thread."""
    made, spent = 0, 0.0
    begin = time.perf_counter()
    while made < spans:
        batch = [texts.next() for _ in range(max(CHUNK // per_unit, 1))]
        before = time.thread_time()
        for messages in batch:
            made += unit(messages)
        spent += time.thread_time() - before
        if rate:
            ahead = begin + made / rate - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
    return made, spent


def cpu(task: dict[str, Any]) -> dict[str, Any]:
    """CPU of the application's thread and of the process, per span, at a rate that everything keeps up with."""
    from bench import workload

    candidate = candidate_of(task)
    texts = workload.Texts(task["size"])
    unit = workload.work_of(candidate.tracer, task.get("shape", "pair")).unit
    drive(workload.pair(candidate.tracer), texts, 200, 4000)
    candidate.flush()
    gc.collect()
    process, thread, wall = time.process_time(), time.thread_time(), time.perf_counter()
    made, app = drive(unit, texts, task["spans"], task["rate"])
    late = (time.perf_counter() - wall) * task["rate"] / made if task["rate"] else 0.0
    candidate.flush()
    process, thread = time.process_time() - process, time.thread_time() - thread
    rss = _rss()
    candidate.shutdown()
    return {
        "app_us": app / made * 1e6,
        "process_us": process / made * 1e6,
        "thread_us": thread / made * 1e6,
        "late": late,
        "made": made + 200,
        "rss_mb": rss,
        "status": candidate.status(),
    }


def latency(task: dict[str, Any]) -> dict[str, Any]:
    """Wall time of ending one span, and of making one trace, at a steady rate."""
    from bench import workload

    candidate = candidate_of(task)
    tracer = candidate.tracer
    texts = workload.Texts(task["size"])
    ends: list[int] = []
    traces: list[int] = []
    drive(workload.pair(tracer), texts, 400, 2000)
    unit = workload.timed_pair(tracer, time.perf_counter_ns, ends, traces)
    begin, made = time.perf_counter(), 0
    while made < task["spans"]:
        messages = texts.next()
        ahead = begin + made / task["rate"] - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
        made += unit(messages)
    candidate.flush()
    candidate.shutdown()
    return _percentiles("end", ends) | _percentiles("trace", traces)


def _percentiles(name: str, nanoseconds: list[int]) -> dict[str, float]:
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    return {f"{name}_{key}_us": ordered[min(int(last * share + 0.5), last)] / 1e3 for key, share in shares.items()}


def burst(task: dict[str, Any]) -> dict[str, Any]:
    """As many spans as fast as they can be made, then flush; loss is counted where they arrive."""
    from bench import workload

    candidate = candidate_of(task)
    texts = workload.Texts(task["size"])
    drive(workload.pair(candidate.tracer), texts, 200, 4000)
    candidate.flush()
    before, begin = _rss(), time.perf_counter()
    made, _ = drive(workload.pair(candidate.tracer), texts, task["spans"], 0)
    created = time.perf_counter() - begin
    candidate.flush()
    flushed = time.perf_counter() - begin
    rss = _rss()
    candidate.shutdown()
    return {
        "made": made + 200,
        "created_s": created,
        "flushed_s": flushed,
        "rss_before_mb": before,
        "rss_mb": rss,
        "status": candidate.status(),
    }


def dead(task: dict[str, Any]) -> dict[str, Any]:
    """Shutdown while nobody answers. The caller measures until the process is gone."""
    from bench import workload

    candidate = candidate_of(task)
    drive(workload.pair(candidate.tracer), workload.Texts(task["size"]), task["spans"], 2000)
    begin = time.monotonic()
    if task["candidate"] != "ours_env":
        candidate.shutdown()
    return {"shutdown_s": time.monotonic() - begin, "begin": begin}


def imports(task: dict[str, Any]) -> dict[str, Any]:
    """What importing a candidate adds to a process that has the SDK."""
    begin = time.perf_counter()
    import_module("opentelemetry.sdk.trace")
    sdk = time.perf_counter() - begin
    known = set(sys.modules)
    begin = time.perf_counter()
    for module in task["modules"]:
        found = import_module(module.partition(":")[0])
        if ":" in module:
            getattr(found, module.partition(":")[2])
    spent = time.perf_counter() - begin
    added = [name for name in sys.modules if name not in known]
    tops = sorted({_package(name) for name in added} - set(sys.stdlib_module_names) - {"bench", "opentelemetry"})
    return {
        "sdk_ms": sdk * 1e3,
        "import_ms": spent * 1e3,
        "modules": len(added),
        "packages": [name for name in tops if not name.startswith("_")],
    }


def _package(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[:2] == ["opentelemetry", "exporter"] else parts[0]


def size(task: dict[str, Any]) -> dict[str, Any]:
    """Bytes of packages and of all that they require, without compiled files."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    def closure(names: list[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        while names:
            name = names.pop().lower().replace("_", "-")
            if name in found:
                continue
            try:
                dist = distribution(name)
            except PackageNotFoundError:
                continue
            paths = [Path(str(file.locate())) for file in dist.files or ()]
            if name == "otel-langfuse":
                paths = list(Path(import_module("otel_langfuse").__path__[0]).rglob("*"))
            paths = [path for path in paths if path.suffix != ".pyc" and path.is_file()]
            found[name] = sum(path.stat().st_size for path in paths) / 1e6
            for text in dist.requires or ():
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    names.append(requirement.name)
        return found

    base = closure(["opentelemetry-sdk"])
    full = closure(list(task["packages"]))
    added = {name: mb for name, mb in full.items() if name not in base}
    return {"total_mb": sum(full.values()), "added_mb": sum(added.values()), "added": sorted(added)}


def _rss() -> float:
    """Most memory that this process has had, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3


MEASURES = {
    "cpu": cpu,
    "latency": latency,
    "burst": burst,
    "dead": dead,
    "imports": imports,
    "size": size,
}

if __name__ == "__main__":
    main(sys.argv[1:])
