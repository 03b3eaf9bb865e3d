"""The stock OpenTelemetry Collector for tests: built once from ``collector/builder-config.yaml``, run as a process.

A build takes minutes, so binaries are kept in ``.cache/<tool>/<hash>``, where the hash is that of everything that decides
their content; a file lock lets parallel runs build once. It needs ``go``: without it tests fail and say so, unless
``OTEL_LANGFUSE_TEST_SKIP_GO=1`` asks for skipping them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

__all__ = ["COLLECTOR", "ROOT", "Collector", "collector_binary", "compose_binary", "exported", "free_ports"]

ROOT = Path(__file__).resolve().parents[2]
COLLECTOR = ROOT / "collector"
_CACHE = ROOT / ".cache"
_MANIFEST = COLLECTOR / "builder-config.yaml"
_COMPOSE = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"
_SKIP = "OTEL_LANGFUSE_TEST_SKIP_GO"
_READY = "Everything is ready. Begin running and processing data."
_TAKEN = "address already in use"
_BUILD_LIMIT = 2400.0
_START_LIMIT = 60.0
_STOP_LIMIT = 30.0
_PORTS = ("OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "HEALTH_PORT", "METRICS_PORT")


def collector_binary() -> Path:
    """The Collector that ``collector/builder-config.yaml`` describes; built if there is none yet."""
    manifest = _MANIFEST.read_text(encoding="utf-8")
    described = yaml.safe_load(manifest)

    def build(home: Path) -> Path:
        with tempfile.TemporaryDirectory() as work:
            described["dist"]["output_path"] = work
            config = Path(work) / "builder-config.yaml"
            config.write_text(yaml.safe_dump(described), encoding="utf-8")
            builder = _install(f"go.opentelemetry.io/collector/cmd/builder@v{described['dist']['version']}", Path(work))
            _run([str(builder), "--skip-strict-versioning", "--config", str(config)])
            return Path(shutil.copy2(Path(work) / described["dist"]["name"], home))

    # Comments decide nothing.
    return _cached("otelcol", json.dumps(described, sort_keys=True), described["dist"]["name"], build)


def compose_binary() -> Path:
    """The reference implementation of the compose specification, as a command that checks a file."""
    return _cached("compose", _COMPOSE, "cmd", lambda home: _install(_COMPOSE, home))


def _cached(tool: str, content: str, name: str, build: Callable[[Path], Path]) -> Path:
    home = _CACHE / tool / hashlib.sha256(content.encode()).hexdigest()[:16]
    binary = home / name
    home.mkdir(parents=True, exist_ok=True)
    (_CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _need_go()
            with tempfile.TemporaryDirectory(dir=home) as unfinished:
                # Moved when it is complete: a build that was interrupted leaves nothing that looks like a binary.
                build(Path(unfinished)).rename(binary)
    return binary


def _need_go() -> None:
    if shutil.which("go"):
        return
    if os.environ.get(_SKIP) == "1":
        pytest.skip(f"go is not on PATH, and {_SKIP}=1")
    pytest.fail(
        f"go is not on PATH: install Go 1.25 or newer to build the Collector, or set {_SKIP}=1 to leave these tests out"
    )


def _install(module: str, home: Path) -> Path:
    _run(["go", "install", module], GOBIN=str(home))
    return home / module.rpartition("/")[2].partition("@")[0]


def _run(command: Sequence[str], **variables: str) -> None:
    environ = {**os.environ, "CGO_ENABLED": "0", **variables}
    done = subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_BUILD_LIMIT
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout[-8000:]}")


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Ports of 127.0.0.1 that nobody has, held until the block ends."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in held]


class Collector:
    """A running Collector; a context manager.

    The configurations find their ports in the environment, as ``agent.yaml`` does: ``OTLP_GRPC_PORT``,
    ``OTLP_HTTP_PORT``, ``HEALTH_PORT`` and ``METRICS_PORT``.

    Args:
        configs: Files, laid over each other in this order; a mapping is written to a file first.
        home: A folder of its own, for the queue and for written configurations.
        environ: More variables.
    """

    def __init__(self, *configs: Path | Mapping[str, Any], home: Path, environ: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._extra = dict(environ or {})
        self._arguments = [f"--config={self._file(number, config)}" for number, config in enumerate(configs)]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []
        self._settled = threading.Event()
        self._ready = False
        self.ports: dict[str, int] = {}

    def _file(self, number: int, config: Path | Mapping[str, Any]) -> Path:
        if isinstance(config, Path):
            return config
        self._home.mkdir(parents=True, exist_ok=True)
        path = self._home / f"config-{number}.yaml"
        path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        return path

    @property
    def grpc(self) -> str:
        """Host and port of OTLP over gRPC."""
        return f"127.0.0.1:{self.ports['OTLP_GRPC_PORT']}"

    @property
    def url(self) -> str:
        """The root of OTLP over HTTP."""
        return f"http://127.0.0.1:{self.ports['OTLP_HTTP_PORT']}"

    @property
    def health(self) -> str:
        """The URL of the health check."""
        return f"http://127.0.0.1:{self.ports['HEALTH_PORT']}/"

    @property
    def stderr(self) -> str:
        """What it has logged, over all its starts."""
        return "".join(self._lines)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it and returns when it takes data; after ``kill`` or ``stop`` on the same ports and folder."""
        for _ in range(3):
            if not self.ports:
                with free_ports(len(_PORTS)) as ports:
                    self.ports = dict(zip(_PORTS, ports, strict=True))
            before = len(self._lines)
            if self._launch():
                return
            said = "".join(self._lines[before:])
            self.stop()
            if _TAKEN not in said:
                break
            self.ports = {}  # Somebody was faster; other ports, then.
        pytest.fail(f"the Collector did not start:\n{said[-8000:]}")

    def _launch(self) -> bool:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        ports = {name: str(port) for name, port in self.ports.items()}
        self._settled.clear()
        self._ready = False
        self._process = subprocess.Popen(
            [str(collector_binary()), *self._arguments],
            env={**inherited, "QUEUE_DIRECTORY": str(self._home / "queue"), **ports, **self._extra},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._settled.wait(_START_LIMIT)
        return self._ready

    def _read(self, process: subprocess.Popen[str]) -> None:
        """Keeps what it logs, and wakes ``start`` when it is ready or has ended."""
        assert process.stderr is not None
        for line in process.stderr:
            self._lines.append(line)
            if _READY in line:
                self._ready = True
                self._settled.set()
        self._settled.set()

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in order (SIGTERM); what it could not deliver stays in its queue."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        self._process = self._reader = None
        process.send_signal(how)
        try:
            process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_LIMIT)
        reader.join(_STOP_LIMIT)
        assert process.stderr is not None
        process.stderr.close()


def exported(path: Path) -> list[dict[str, Any]]:
    """Spans and log records that the ``file`` exporter wrote (OTLP/JSON), in order; complete once its Collector ended."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        request = json.loads(line)
        for resource in (*request.get("resourceSpans", ()), *request.get("resourceLogs", ())):
            for scope in (*resource.get("scopeSpans", ()), *resource.get("scopeLogs", ())):
                found += [*scope.get("spans", ()), *scope.get("logRecords", ())]
    return found
