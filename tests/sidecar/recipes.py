"""The recipes in ``examples/``, run as their READMEs say, each with its own packages and none of ours.

Packages are installed once into ``.venvs/examples/<name>`` and kept while the files that name them stay the same; the
sources are copied anew for each run, so that a change of them counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["EXAMPLES", "Recipe", "run", "served"]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
_HOME = ROOT / ".venvs" / "examples"
_INSTALL_LIMIT = 900.0
_LIMIT = 60.0
_OWN = ("OTEL_", "LANGFUSE_", "OPENAI_", "TRACELOOP_", "PYTHON", "NODE_", "npm_")


class Recipe:
    """One folder of ``examples/``, with its packages installed.

    Attributes:
        home: Where it runs.
    """

    def __init__(self, name: str) -> None:
        self.home = _HOME / name
        source = EXAMPLES / name
        self.home.mkdir(parents=True, exist_ok=True)
        with (_HOME / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for file in source.iterdir():
                shutil.copy2(file, self.home)
            if (source / "package-lock.json").exists():
                self._provide(["package.json", "package-lock.json"], self._install_node)
            elif (source / "requirements.txt").exists():
                self._provide(["requirements.txt"], self._install_python)

    @property
    def launcher(self) -> Sequence[str]:
        """``opentelemetry-instrument python``, of the recipe's own environment."""
        return [str(self.home / "venv/bin/opentelemetry-instrument"), str(self.home / "venv/bin/python")]

    def _provide(self, names: Sequence[str], install: object) -> None:
        contents = [(self.home / name).read_text(encoding="utf-8") for name in names]
        key = hashlib.sha256("\0".join([*contents, sys.version]).encode()).hexdigest()
        stamp = self.home / "stamp"
        if not (stamp.exists() and stamp.read_text() == key):
            assert callable(install)
            install()
            stamp.write_text(key)

    def _install_node(self) -> None:
        if not shutil.which("npm"):
            if os.environ.get("OTEL_LANGFUSE_TEST_SKIP_NODE") == "1":
                pytest.skip("npm is not on PATH, and OTEL_LANGFUSE_TEST_SKIP_NODE=1")
            pytest.fail("npm is not on PATH: install Node 20.6 or newer, or set OTEL_LANGFUSE_TEST_SKIP_NODE=1 to go without")
        self._call("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")

    def _install_python(self) -> None:
        uv = str(Path(sys.executable).with_name("uv"))
        shutil.rmtree(self.home / "venv", ignore_errors=True)
        self._call(uv, "venv", "--quiet", "--python", sys.executable, "venv")
        self._call(uv, "pip", "install", "--quiet", "--python", "venv/bin/python", "--requirement", "requirements.txt")

    def _call(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_INSTALL_LIMIT
        )
        if done.returncode:
            pytest.fail(f"{' '.join(command)} failed:\n{done.stdout[-8000:]}")


def _environ(variables: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    return {name: value for name, value in inherited.items() if not name.lower().endswith("_proxy")} | dict(variables)


def run(command: Sequence[str], home: Path, variables: Mapping[str, str]) -> str:
    """Runs a recipe that ends by itself; what it printed."""
    done = subprocess.run(command, cwd=home, env=_environ(variables), capture_output=True, text=True, timeout=_LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextmanager
def served(command: Sequence[str], home: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Runs a recipe that serves; its address, which it prints first. Ends it with SIGTERM, which flushes its spans."""
    errors: list[str] = []
    process = subprocess.Popen(
        command,
        cwd=home,
        env=_environ({"PORT": "0", **variables}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(_LIMIT, process.kill)
    timer.start()
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http"), "".join(errors)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(_LIMIT)
        timer.cancel()
        reader.join(_LIMIT)
        process.stdout.close()
        process.stderr.close()
    assert code == 0, "".join(errors)
