"""The sidecar as users run it: a process of its own, started by its command, ended by a signal."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = Path(sys.executable).with_name("otel-langfuse")
READY = "otel-langfuse collector is up"


# Below those that systems give to whoever asks for any: a server or client that starts meanwhile cannot get the same one.
_PORTS = count(20_000 + secrets.randbelow(8_000))


def free_port() -> int:
    """A port that was free a moment ago, and is given to nobody else here."""
    for port in _PORTS:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is no end to the ports")


class SidecarProcess:
    """Runs between ``start`` and ``stop`` or ``kill``; may be started again. As a context manager it leaves nothing behind."""

    def __init__(self, config: Path, environ: Mapping[str, str] | None = None) -> None:
        self._command = [str(COMMAND), "collector", "--config", str(config)]
        self._environ = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "LANGFUSE_"))} | dict(
            environ or {}
        )
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it and waits until it takes data."""
        self._ready.clear()
        self._process = subprocess.Popen(
            self._command, env=self._environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        if not self._ready.wait(60) or self._process.poll() is not None:
            self.kill()
            raise AssertionError("the sidecar did not start:\n" + "".join(self.log[-30:]))

    def stop(self, timeout: float = 30.0) -> int:
        """Asks it to end; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends it without asking."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(30)
        if self._reader is not None:
            self._reader.join(30)
            self._reader = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self.log.append(line)
                if READY in line:
                    self._ready.set()
        self._ready.set()
