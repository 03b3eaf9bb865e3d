"""Starting measured processes and the endpoints beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.candidates import CANDIDATES
from bench.envs import ROOT, python_of

__all__ = ["Child", "Sink", "command_for", "run"]

_FOREIGN = ("OTEL_", "LANGFUSE_", "TRACELOOP_")
_PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "PYTHONPATH"}


class Child:
    """A process that answers each line of its standard input with one of its own.

    Args:
        command: Its command line.
        env: Its environment.
    """

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line: str) -> None:
        """Writes a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self, prefix: str = "") -> str:
        """What follows ``prefix`` in the next line that begins with it; `RuntimeError` if there is none."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(prefix):
                return line[len(prefix) :]
        message = f"{self._process.args} ended before it answered"
        raise RuntimeError(message)

    def end(self, patience: float = 10.0) -> None:
        """Closes its input, at which it ends; kills it after ``patience`` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()


class Sink:
    """The endpoints' process; a context manager."""

    def __enter__(self) -> Self:
        self._child = Child([sys.executable, "-m", "bench.sink"], clean_environment())
        self._ports: dict[str, int] = json.loads(self._child.hear())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._child.end()

    def endpoints(self, tempo: str = "tempo", langfuse: str = "langfuse") -> dict[str, str]:
        """The endpoints for a candidate; ``silent`` and ``closed`` are those that are dead."""
        grpc = "grpc" if tempo == "tempo" else tempo
        return {
            "tempo": f"http://127.0.0.1:{self._ports[tempo]}",
            "tempo_grpc": f"127.0.0.1:{self._ports[grpc]}",
            "langfuse": f"http://127.0.0.1:{self._ports[langfuse]}",
        }

    @property
    def has_grpc(self) -> bool:
        """Whether there is a gRPC endpoint."""
        return bool(self._ports["grpc"])

    def reset(self) -> None:
        """Forgets what came."""
        self._ask({"do": "reset"})

    def away(self, store: str, seconds: float) -> None:
        """Has an endpoint answer 503 for some seconds."""
        self._ask({"do": "away", "store": store, "seconds": seconds})

    def count(self) -> dict[str, dict[str, int]]:
        """What came, by endpoint; gRPC counts as Tempo."""
        counts: dict[str, dict[str, int]] = self._ask({"do": "count"})
        grpc = counts.pop("grpc")
        counts["tempo"] = {name: number + grpc[name] for name, number in counts["tempo"].items()}
        return counts

    def _ask(self, command: dict[str, Any]) -> Any:
        self._child.tell(json.dumps(command))
        return json.loads(self._child.hear())


def clean_environment() -> dict[str, str]:
    """This environment without what would steer a candidate."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN) and name.upper() not in _PROXIES}


def command_for(name: str, task: dict[str, Any], module: str = "bench.worker") -> tuple[list[str], dict[str, str]]:
    """Command line and environment of the process that measures candidate ``name``."""
    kind = CANDIDATES[name]
    env = clean_environment() | {"OTEL_LANGFUSE_COMPRESSION": "gzip", "PYTHONHASHSEED": "0"}
    paths = [os.environ["BENCH_SOURCE"]] if kind.python == "main" and "BENCH_SOURCE" in os.environ else []
    if paths:
        env["PYTHONPATH"] = os.pathsep.join(paths)
    command = [python_of(kind.python), "-m", module, json.dumps(task)]
    if kind.launcher:
        endpoints = task["endpoints"]
        env |= {
            "OTEL_TRACES_EXPORTER": "otlp,langfuse",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoints["tempo"],
            "LANGFUSE_PUBLIC_KEY": "pk-lf-bench",
            "LANGFUSE_SECRET_KEY": "sk-lf-bench",
            "LANGFUSE_BASE_URL": endpoints["langfuse"],
        }
        command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), *command]
    return command, env


def run(task: dict[str, Any], timeout: float = 180.0) -> dict[str, Any]:
    """Measures ``task["candidate"]`` in a process of its own; adds when the process was gone."""
    command, env = command_for(task["candidate"], task)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    gone = time.monotonic()
    lines = [line for line in done.stdout.splitlines() if line.startswith("BENCH ")]
    if not lines:
        message = f"{task['measure']} of {task['candidate']} failed ({done.returncode}): {done.stderr[-2000:]}"
        raise RuntimeError(message)
    result: dict[str, Any] = json.loads(lines[-1][6:])
    result["gone"] = gone
    return result
