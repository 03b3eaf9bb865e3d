"""Draws both copies of a trace side by side, and the list of checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from otel_langfuse.demo.checks import Check, Seen
from otel_langfuse.demo.rows import Observation, Row, observe, walk

__all__ = ["draw_checks", "draw_copies", "make_console"]

_WIDE = 170
_LEFT = 48
_COLOURS = {
    "agent": "magenta",
    "embedding": "cyan",
    "generation": "green",
    "span": "white",
    "tool": "yellow",
}
_NOTE = (
    "Tokens: input / output / total. Cached: part of the input. Cost: instrumentations send none; Langfuse works it out"
    " from prices, and so does this table."
)


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; wide enough for both trees where there is no terminal."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDE)


def draw_copies(console: Console, seen: Seen) -> None:
    """Prints, for each trace, Tempo's spans on the left and Langfuse's observations on the right."""
    shared = {row.span_id for row in seen.langfuse or ()}
    traces = dict.fromkeys(row.trace_id for row in (*(seen.langfuse or ()), *(seen.tempo or ())))
    for trace_id in traces:
        panels: list[RenderableType] = []
        if seen.tempo is not None:
            panels.append(_tempo([row for row in seen.tempo if row.trace_id == trace_id], shared))
        if seen.langfuse is not None:
            panels.append(_langfuse([row for row in seen.langfuse if row.trace_id == trace_id]))
        console.rule(f"trace {trace_id}")
        if console.width < _WIDE:
            console.print(Group(*panels))
        else:
            grid = Table.grid(expand=True)
            grid.add_column(width=_LEFT)
            grid.add_column(ratio=1)
            grid.add_row(*panels)
            console.print(grid)
    if seen.langfuse is not None:
        console.print(_NOTE, style="dim")


def draw_checks(console: Console, checks: Sequence[Check]) -> None:
    """Prints one line for each check."""
    table = Table.grid(padding=(0, 2))
    for check in checks:
        mark = Text("ok", style="green") if check.kept else Text("NO", style="bold red")
        table.add_row(mark, escape(check.promise), Text(check.detail, style="dim"))
    console.print(table)


def _tempo(rows: Sequence[Row], shared: Iterable[str]) -> Panel:
    """All spans with their scope; those that Langfuse has too are bright."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("span", ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column("scope", ratio=2, no_wrap=True, overflow="ellipsis", style="dim")
    known = frozenset(shared)
    for guide, row in walk(rows):
        table.add_row(Text(guide + row.name, style="bold" if row.span_id in known else "dim"), Text(_short(row.scope)))
    return Panel(table, title=f"Tempo: {len(rows)} spans", border_style="blue")


def _langfuse(rows: Sequence[Row]) -> Panel:
    """The observations with what Langfuse shows of them, and the trace's input and output."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("observation", ratio=4, no_wrap=True, overflow="ellipsis")
    table.add_column("type", no_wrap=True)
    table.add_column("model", ratio=5, no_wrap=True, overflow="ellipsis")
    for name in ("tokens", "cached", "cost $", "1st token", "level"):
        table.add_column(name, no_wrap=True, justify="left" if name == "level" else "right")
    for guide, row in walk(rows):
        seen = observe(row)
        table.add_row(Text(guide + row.name), Text(seen.type, style=_COLOURS.get(seen.type, "")), *_cells(seen))
    lines: list[RenderableType] = [table]
    for side in ("input", "output"):
        text = next((row.text(f"langfuse.observation.{side}") for row in rows if not row.parent_id), "")
        if text:
            lines.append(Text(f"{side}: {text}", style="dim", no_wrap=True, overflow="ellipsis"))
    return Panel(Group(*lines), title=f"Langfuse: {len(rows)} observations", border_style="green")


def _cells(seen: Observation) -> tuple[RenderableType, ...]:
    tokens = f"{seen.tokens('input'):,} / {seen.tokens('output'):,} / {seen.total:,}" if seen.usage else ""
    return (
        Text(seen.model),
        tokens,
        f"{seen.cached:,}" if seen.cached else "",
        "" if seen.cost is None else f"{seen.cost:.7f}",
        "" if seen.first_token_ms is None else f"{seen.first_token_ms:.0f} ms",
        Text(seen.level, style="bold red") if seen.level == "ERROR" else Text(seen.level, style="dim"),
    )


def _short(scope: str) -> str:
    return scope.removeprefix("opentelemetry.instrumentation.")
