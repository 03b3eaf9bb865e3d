"""The commands of ``otel-langfuse``.

Rules: results go to stdout, as JSON where a program may read them; progress and errors go to stderr. What the user can
put right is one sentence and exit code 2. Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from otel_langfuse.errors import ConfigError, PayloadError

__all__ = ["group"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class _Refusal(click.ClickException):
    """Something that the user can put right."""

    exit_code = 2


class _PlainErrors(click.Group):
    """A group whose commands end with one sentence, not with a traceback, where the user can put it right."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of stdout has seen enough: click ends quietly
        except (ConfigError, PayloadError, OSError) as error:
            raise _Refusal(str(error)) from error


@click.group(cls=_PlainErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="otel-langfuse", prog_name="otel-langfuse")
def group() -> None:
    """One GenAI trace, two homes: rich in Langfuse, lean in Tempo."""


@group.command()
def dialects() -> None:
    """Print which attribute feeds which field, by dialect, as Markdown."""
    from otel_langfuse.dialects.catalogue import markdown

    click.echo(markdown(), nl=False)


@group.command()
@click.option(
    "--config",
    type=_FILE,
    help="The configuration; without it the built-in one, which is the repository's otel-config.yaml.",
)
@click.option("--check", is_flag=True, help="Only check the configuration, and print what it comes to, without secrets.")
@click.pass_context
def collector(ctx: click.Context, *, config: Path | None, check: bool) -> None:
    """Run the sidecar: OTLP in from any language, Langfuse and any OTLP backend out.

    Ends on SIGTERM or Ctrl-C after draining; a second signal ends at once.
    """
    try:
        from otel_langfuse.sidecar.config import describe, load
        from otel_langfuse.sidecar.process import run
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: install the sidecar with pip install 'otel-langfuse[collector]'") from None

    plan = load(config, os.environ)
    if check:
        click.echo(describe(plan), nl=False)
    else:
        ctx.exit(run(plan))


@group.command()
@click.option("--serve", is_flag=True, help="Keep the app up until Ctrl-C, for requests of your own.")
@click.pass_context
def demo(ctx: click.Context, *, serve: bool) -> None:
    """Run an instrumented app and show both copies of its trace.

    Needs no keys: a stub stands in for OpenAI, and local receivers for Langfuse and Tempo. Set OPENAI_API_KEY,
    LANGFUSE_PUBLIC_KEY with LANGFUSE_SECRET_KEY, or OTEL_EXPORTER_OTLP_ENDPOINT to use the real ones.
    """
    from otel_langfuse.demo.runner import run

    ctx.exit(run(serve=serve))


@group.command()
@click.option("--traces", type=_FILE, help="An OTLP export request with spans (protobuf).")
@click.option("--logs", type=_FILE, help="An OTLP export request with the log records of these spans.")
@click.option("--tree", type=_FOLDER, help="A folder: each */*/traces.pb in it, with the logs.pb beside it if any.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file, or the folder, to write.")
def convert(traces: Path | None, logs: Path | None, tree: Path | None, out: Path) -> None:
    """Convert recorded OTLP into what Langfuse would be sent, and print a summary as JSON."""
    if (traces is None) == (tree is None):
        raise click.UsageError("give either --traces or --tree")
    if tree is not None:
        if logs is not None:
            raise click.UsageError("--logs belongs to --traces; with --tree each logs.pb is found beside its traces.pb")
        jobs = _jobs(tree, out)
    else:
        assert traces is not None
        jobs = [_Job(traces, logs, out)]
    click.echo(json.dumps(_convert_all(jobs), indent=2))


@group.command()
def settings() -> None:
    """Print all settings with their environment variables and defaults, as a Markdown table."""
    from otel_langfuse.settings import Settings

    click.echo(Settings.table())


@dataclass(frozen=True, slots=True)
class _Job:
    """One recording to convert."""

    traces: Path
    logs: Path | None
    out: Path


def _jobs(tree: Path, out: Path) -> list[_Job]:
    found = sorted(tree.glob("*/*/traces.pb"))
    if not found:
        raise ConfigError(f"no */*/traces.pb below {tree}", field="tree", source="--tree")
    jobs = []
    for traces in found:
        logs = traces.with_name("logs.pb")
        jobs.append(_Job(traces, logs if logs.is_file() else None, out / traces.relative_to(tree)))
    return jobs


def _convert_all(jobs: Sequence[_Job]) -> dict[str, Any]:
    """Converts every recording and returns the sums."""
    from otel_langfuse.convert import convert as convert_bytes
    from otel_langfuse.settings import Settings

    settings = Settings.resolve(strict=True)
    sums: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for job in _with_progress(jobs):
        try:
            done = convert_bytes(job.traces.read_bytes(), job.logs.read_bytes() if job.logs else None, settings)
        except PayloadError as error:
            raise PayloadError(f"{job.traces}: {error}") from error
        job.out.parent.mkdir(parents=True, exist_ok=True)
        job.out.write_bytes(done.payload)
        sums.update(files=1, spans_in=done.spans_in, spans_out=done.spans_out, generations=done.generations)
        notes.update(done.notes)
    return {**sums, "notes": dict(sorted(notes.items()))}


def _with_progress(jobs: Sequence[_Job]) -> Iterable[_Job]:
    """The jobs, with a bar on stderr while they are worked through; without a terminal there is no bar."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(jobs, "Converting", console=console, disable=not console.is_terminal or len(jobs) == 1)
