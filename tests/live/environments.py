"""Virtual environments for packages that exclude each other: one per instrumentation, made once and kept.

They live in ``.venvs/<name>`` beside the sources, which are installed editable. A stamp holds a hash of everything that
decides an environment's content; when it changes, the environment is made anew. A file lock keeps parallel runs apart.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENVIRONMENTS", "Environment", "provide"]

ROOT = Path(__file__).resolve().parents[2]
_HOME = ROOT / ".venvs"


@dataclass(frozen=True, slots=True)
class Environment:
    """What an environment holds.

    Attributes:
        extra: The project's extra.
        requirements: What comes on top.
        prerelease: Whether pre-release versions are taken, as the official GenAI instrumentations need.
    """

    extra: str
    requirements: tuple[str, ...]
    prerelease: bool = False


# Instrumentations whose spans belong in Tempo only.
_NOISE = ("opentelemetry-instrumentation-httpx", "opentelemetry-instrumentation-urllib")
_HTTP = ("opentelemetry-exporter-otlp-proto-http",)

ENVIRONMENTS = {
    "traceloop": Environment("openai", ("openai>=2", "gunicorn>=23", *_NOISE)),
    "genai": Environment(
        "genai-openai",
        (
            "openai>=2",
            "opentelemetry-instrumentation-genai-openai==1.3b0",
            "opentelemetry-util-genai==1.3b0",
            *_NOISE,
        ),
        prerelease=True,
    ),
    # The version after this one does not import beside the current util-genai, and it needs httpx, as openai 2 does.
    "openai_v2": Environment(
        "cli",
        (
            "openai>=2,<3",
            "opentelemetry-distro",
            "opentelemetry-exporter-otlp",
            "opentelemetry-instrumentation-openai-v2==2.4b0",
            "opentelemetry-util-genai==0.4b0",
            *_NOISE,
        ),
        prerelease=True,
    ),
    "langfuse": Environment("openai", ("openai>=2", "langfuse==5.0.4", *_NOISE)),
    "openinference": Environment("cli", (*_HTTP, "openai>=3", "openinference-instrumentation-openai>=0.1.66")),
    # It takes no openai 3. Without a lower bound an old one is found that fits the newest of everything else.
    "openlit": Environment("cli", (*_HTTP, "openai>=2,<3", "openlit>=1.45")),
    "pydantic_ai": Environment("cli", (*_HTTP, "pydantic-ai-slim[openai]>=2.68")),
    "langchain": Environment(
        "cli",
        (
            *_HTTP,
            "langchain-openai>=1.7",
            "openinference-instrumentation-langchain>=0.1.80",
            "openinference-instrumentation-openai>=0.1.66",
        ),
    ),
    "anthropic": Environment(
        "cli", (*_HTTP, "anthropic>=2.12", "opentelemetry-distro", "opentelemetry-instrumentation-anthropic>=0.62")
    ),
}


def provide(name: str) -> Path:
    """The Python of an environment, which is made first if need be.

    Raises:
        RuntimeError: It could not be made; the message has the installer's output.
    """
    wanted = ENVIRONMENTS[name]
    home = _HOME / name
    python = home / "bin" / "python"
    stamp = home / "stamp"
    _HOME.mkdir(exist_ok=True)
    with (_HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        key = _key(wanted)
        if not (python.exists() and stamp.exists() and stamp.read_text() == key):
            shutil.rmtree(home, ignore_errors=True)
            _make(home, wanted)
            stamp.write_text(key)
    return python


def _key(wanted: Environment) -> str:
    """A hash of the requirements, of what the project itself asks for, and of the Python that runs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = ("name", "version", "dependencies", "optional-dependencies", "entry-points", "scripts")
    parts = [wanted.extra, *wanted.requirements, sys.version, sys.executable, str(ROOT)]
    return hashlib.sha256(json.dumps([parts, [project.get(part) for part in names]]).encode()).hexdigest()


def _make(home: Path, wanted: Environment) -> None:
    packages = ["--editable", f"{ROOT}[{wanted.extra}]", *wanted.requirements]
    beside = str(Path(sys.executable).parent)
    if uv := shutil.which("uv", path=os.pathsep.join((beside, os.environ.get("PATH", "")))):
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(home))
        flags = ["--prerelease=allow"] if wanted.prerelease else []
        _run(uv, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), *flags, *packages)
    else:
        _run(sys.executable, "-m", "venv", str(home))
        flags = ["--pre"] if wanted.prerelease else []
        _run(str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *flags, *packages)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}")
