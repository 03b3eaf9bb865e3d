"""Runs the demo: starts the app as a user would, asks it a question, shows both copies of the trace.

With no keys set everything stays on this machine: a stub of the OpenAI API, a receiver in Langfuse's place and one in
Tempo's. Each of them gives way to the real one:

- ``OPENAI_API_KEY``: the real OpenAI API answers.
- ``LANGFUSE_PUBLIC_KEY`` and ``LANGFUSE_SECRET_KEY``: spans go to that Langfuse project.
- ``OTEL_EXPORTER_OTLP_ENDPOINT``: spans go to that Tempo, Collector or other OTLP receiver.

A copy that goes to a real server cannot be drawn here; its link is printed instead.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_langfuse.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from otel_langfuse.demo.checks import Seen
    from otel_langfuse.testing import FakeLangfuse, OtlpSink
    from otel_langfuse.testing.stub_openai import StubOpenAI

__all__ = ["App", "Plan", "make_plan", "missing_packages", "run"]

_NEEDED = {
    "fastapi": "fastapi",
    "httpx": "httpx",
    "openai": "openai",
    "rich": "rich",
    "uvicorn": "uvicorn",
    "opentelemetry.distro": "opentelemetry-distro",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp",
    "opentelemetry.instrumentation.fastapi": "opentelemetry-instrumentation-fastapi",
    "opentelemetry.instrumentation.httpx": "opentelemetry-instrumentation-httpx",
    "opentelemetry.instrumentation.sqlite3": "opentelemetry-instrumentation-sqlite3",
}
_INSTALL = "pip install 'otel-langfuse[demo]'"
_LIMIT = 50.0
_QUESTION = "Is it warmer in Paris or in Rome?"
_USER, _SESSION = "ada", "trip-7"
_PUBLIC, _SECRET = "pk-lf-demo", "sk-lf-demo"
_LOCAL = "127.0.0.1,localhost"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the app's calls and spans go, and the variables that say so: all that a user would set.

    ``langfuse_url`` and ``otlp_url`` are the real servers, ``None`` where a local receiver stands in.
    """

    variables: Mapping[str, str]
    inherited: Mapping[str, str] = field(repr=False)
    langfuse_url: str | None = None
    otlp_url: str | None = None
    stubbed: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """The child's whole environment."""
        return {**self.inherited, **self.variables}


def missing_packages() -> list[str]:
    """The packages of the ``demo`` extra that are not installed."""
    return [package for module, package in _NEEDED.items() if not _installed(module)]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def make_plan(environ: Mapping[str, str], *, stub_root: str, langfuse_url: str | None, otlp_url: str | None) -> Plan:
    """Decides what the app is told, from what the user has set.

    Args:
        environ: The user's environment.
        stub_root: The stub's address; it also is the weather service.
        langfuse_url: The local receiver in Langfuse's place, ``None`` when the user's own Langfuse is meant.
        otlp_url: Likewise for the OTLP receiver.
    """
    stubbed = not environ.get("OPENAI_API_KEY")
    variables = {
        "OTEL_SERVICE_NAME": "travel-assistant",
        "OTEL_TRACES_EXPORTER": "otlp,langfuse",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "LANGFUSE_TRACING_ENVIRONMENT": "demo",
        "WEATHER_URL": f"{stub_root}/ping/weather",
    }
    kept = _without_telemetry(environ)
    if langfuse_url is None:
        kept.update(_starting(environ, "LANGFUSE_", "OTEL_LANGFUSE_"))
    else:
        variables["LANGFUSE_PUBLIC_KEY"] = _PUBLIC
        variables["LANGFUSE_SECRET_KEY"] = _SECRET
        variables["LANGFUSE_BASE_URL"] = langfuse_url
    if otlp_url is None:
        kept.update(_starting(environ, "OTEL_EXPORTER_OTLP_"))
    else:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = otlp_url
        variables["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    if stubbed:
        variables["OPENAI_BASE_URL"] = f"{stub_root}/v1"
        variables["OPENAI_API_KEY"] = "stub"
    # What is on this machine must not be looked for behind a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = ",".join(filter(None, (environ.get(name), _LOCAL)))
    return Plan(
        variables=variables,
        inherited=kept,
        langfuse_url=environ.get("LANGFUSE_BASE_URL") or environ.get("LANGFUSE_HOST") if langfuse_url is None else None,
        otlp_url=environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") if otlp_url is None else None,
        stubbed=stubbed,
    )


def _without_telemetry(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change the demo: samplers, exporters, switched-off instrumentations."""
    return {name: value for name, value in environ.items() if not name.startswith(("OTEL_", "LANGFUSE_", "TRACELOOP_"))}


def _starting(environ: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(prefixes)}


class App:
    """The app in a process of its own, started with ``opentelemetry-instrument``; a context manager.

    A timer kills the process when it outlives ``limit`` seconds, so that nothing here can hang.
    """

    def __init__(self, environment: Mapping[str, str], limit: float | None = _LIMIT) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None
        self._timer = threading.Timer(limit, self._kill) if limit is not None else None
        self.url = ""

    @staticmethod
    def command() -> list[str]:
        """The command line, with the launcher that belongs to this Python."""
        beside = Path(sys.executable).with_name("opentelemetry-instrument")
        launcher = str(beside) if beside.exists() else shutil.which("opentelemetry-instrument")
        if launcher is None:
            raise ConfigError(f"opentelemetry-instrument is not installed: {_INSTALL}")
        return [launcher, sys.executable, "-m", "otel_langfuse.demo.app"]

    def __enter__(self) -> App:
        # A group of its own: Ctrl-C is for the runner, which then ends the app once, so that its flush is left alone.
        self._process = subprocess.Popen(  # noqa: S603 -- our own command
            self.command(), env=self._environment, stdout=subprocess.PIPE, text=True, process_group=0
        )
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.stop()
            raise ConfigError(f"the demo's app did not start; what it said is above. Is all installed? {_INSTALL}")
        return self

    def wait(self) -> None:
        """Returns when the process has ended by itself."""
        assert self._process is not None
        self._process.wait()

    def stop(self) -> int:
        """Asks the process to end as a container would, with SIGTERM, and returns its exit code; idempotent."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(_LIMIT)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self._process.wait()
        if self._timer is not None:
            self._timer.cancel()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()


def run(*, serve: bool = False, environ: Mapping[str, str] | None = None) -> int:
    """Runs the demo once and prints what both sides got.

    Args:
        serve: Keep the app up until Ctrl-C, for requests of your own. ``DEMO_ONCE=1`` overrules it.
        environ: The environment to start from; ``os.environ`` when ``None``.

    Returns:
        The exit code: 0 when all checks hold, 1 when one does not.

    Raises:
        ConfigError: A package or half of a key pair is missing, or the app did not start.
    """
    environ = os.environ if environ is None else environ
    missing = missing_packages()
    if missing:
        raise ConfigError(f"the demo needs {', '.join(missing)}: {_INSTALL}")
    keys = [bool(environ.get(name)) for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")]
    if keys[0] != keys[1]:
        raise ConfigError("only one of LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY is set; set both, or none")
    serve = serve and environ.get("DEMO_ONCE", "") in ("", "0")
    return _run(environ, serve=serve, own_langfuse=all(keys))


def _run(environ: Mapping[str, str], *, serve: bool, own_langfuse: bool) -> int:
    from otel_langfuse.demo.checks import check
    from otel_langfuse.demo.render import draw_checks, draw_copies, make_console
    from otel_langfuse.testing import FakeLangfuse, OtlpSink
    from otel_langfuse.testing.stub_openai import StubOpenAI

    console = make_console()
    with ExitStack() as stack:
        stub = stack.enter_context(StubOpenAI())
        langfuse = None if own_langfuse else stack.enter_context(FakeLangfuse(public_key=_PUBLIC, secret_key=_SECRET))
        tempo = None if environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else stack.enter_context(OtlpSink())
        plan = make_plan(
            environ,
            stub_root=stub.root,
            langfuse_url=langfuse.url if langfuse else None,
            otlp_url=tempo.url if tempo else None,
        )
        _tell_plan(console, plan)
        answer, code = _ask(console, plan, serve=serve)
        seen = _seen(plan, stub, langfuse, tempo, answer["trace_id"])
    draw_copies(console, seen)
    _tell_links(console, plan, seen)
    checks = check(seen)
    draw_checks(console, checks)
    if not checks:
        console.print("Both copies went to servers of yours, so nothing was checked here: the links lead there.")
    if code:
        console.print(f"The app ended with exit code {code}.", style="bold red")
    return 0 if code == 0 and all(one.kept for one in checks) else 1


def _ask(console: Console, plan: Plan, *, serve: bool) -> tuple[dict[str, Any], int]:
    """Starts the app, asks it once, ends it; the spans leave the app at the latest when it ends."""
    import httpx

    # The word makes the stub count cached tokens, as a provider would for a prompt that it has seen before.
    text = f"{_QUESTION} TRIGGER_CACHED" if plan.stubbed else _QUESTION
    question = {"text": text, "user": _USER, "session": _SESSION}
    with App(plan.environment, None if serve else _LIMIT) as app:
        try:
            answer = httpx.post(f"{app.url}/ask", json=question, timeout=_LIMIT, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            raise ConfigError(f"the demo's app did not answer ({error}); what it said is above") from error
        told = answer.json()
        note = " (the word makes the stub count cached tokens)" if plan.stubbed else ""
        console.print(f"Asked: {text}{note}\nGot:   {told['text']}\n", markup=False)
        if serve:
            _serve(console, app)
        code = app.stop()
    return told, code


def _serve(console: Console, app: App) -> None:
    console.print(f"The app is at {app.url}; Ctrl-C ends it and shows what both sides got. For example:")
    console.print(f"""  curl {app.url}/ask -H 'content-type: application/json' -d '{{"text": "Oslo or Rome?"}}'\n""")
    try:
        app.wait()
    except KeyboardInterrupt:
        console.print()


def _seen(plan: Plan, stub: StubOpenAI, langfuse: FakeLangfuse | None, tempo: OtlpSink | None, trace_id: str) -> Seen:
    from otel_langfuse.demo.checks import Seen
    from otel_langfuse.demo.rows import read_rows

    calls = [request for request in stub.requests if request.path.startswith("/v1/")]
    return Seen(
        tempo=read_rows(tempo.exports) if tempo else None,
        langfuse=read_rows(langfuse.exports) if langfuse else None,
        answered=frozenset((trace_id,)),
        user=_USER,
        session=_SESSION,
        calls=len(calls) if plan.stubbed else None,
        tokens=stub.tokens if plan.stubbed else None,
    )


def _tell_plan(console: Console, plan: Plan) -> None:
    """Prints the variables and the command: all there is to set up."""
    console.print("No code, only these variables and the launcher:", style="bold")
    for name, value in plan.variables.items():
        console.print(f"  {name}={'***' if 'SECRET' in name else value}", markup=False)
    console.print(f"  opentelemetry-instrument {' '.join(['python', *App.command()[2:]])}\n", markup=False)


def _tell_links(console: Console, plan: Plan, seen: Seen) -> None:
    """Prints the link that leads from Tempo's copy to Langfuse, and where copies went that are not drawn."""
    links = {row.text("langfuse.trace.url") for row in seen.tempo or ()} - {""}
    for link in sorted(links):
        console.print(f"Tempo to Langfuse: langfuse.trace.url = {link}", markup=False)
    for trace_id in sorted(seen.answered):
        if seen.langfuse is None:
            base = (plan.langfuse_url or "https://cloud.langfuse.com").rstrip("/")
            console.print(f"Langfuse: {base}/trace/{trace_id}", markup=False)
        if seen.tempo is None:
            console.print(f"OTLP: trace {trace_id} at {plan.otlp_url}", markup=False)
