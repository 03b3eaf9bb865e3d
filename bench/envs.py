"""Environments of their own for what must not mix with the project's: the Langfuse SDK, matplotlib.

They are made on first use below ``.venvs``, which git ignores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

__all__ = ["ENVS", "ROOT", "python_of"]

ROOT = Path(__file__).resolve().parent.parent


def _sdk() -> list[str]:
    """The OpenTelemetry SDK in the version that the project's environment has."""
    installed = version("opentelemetry-sdk")
    return [f"opentelemetry-sdk=={installed}", f"opentelemetry-exporter-otlp-proto-http=={installed}"]


ENVS = {
    "bench-langfuse": lambda: ["langfuse==5.0.4", *_sdk()],
    "bench-plots": lambda: ["matplotlib"],
}


def python_of(name: str) -> str:
    """The interpreter of environment ``name``, made if it is missing; ``main`` is the one that runs."""
    if name == "main":
        return sys.executable
    home = ROOT / ".venvs" / name
    python, mark = home / "bin" / "python", home / "bench-packages.txt"
    wanted = "\n".join(ENVS[name]())
    if mark.exists() and mark.read_text() == wanted:
        return str(python)
    print(f"making {home.relative_to(ROOT)}: {', '.join(ENVS[name]())}", file=sys.stderr)
    uv = shutil.which("uv")
    if not python.exists():
        make = [uv, "venv", "-q", "-p", sys.executable] if uv else [sys.executable, "-m", "venv"]
        subprocess.run([*make, str(home)], check=True)
    install = [uv, "pip", "install", "-q", "-p", str(python)] if uv else [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*install, *ENVS[name]()], check=True)
    mark.write_text(wanted)
    return str(python)
