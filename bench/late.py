"""``python -m bench.late``: what it costs the sidecar's result when the spans of a trace come late.

Every recording of the corpus goes through the trace window span by span, in order of the spans' ends, with so much time
between two arrivals. Compared is what comes out with what `convert` gives, where everything came in time.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from otel_langfuse.counters import Counters
from otel_langfuse.model import LogView, ObservationType, SpanView
from otel_langfuse.pipeline import Options, Pipeline, Row
from otel_langfuse.pipeline.replay import replay
from otel_langfuse.pipeline.window import Window
from otel_langfuse.testing import FakeClock
from otel_langfuse.views.otlp import parse_logs, parse_traces

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tests" / "corpus" / "data"
DELAYS = (0.0, 0.5, 2.0, 11.0)


def late(views: list[SpanView], records: list[LogView], delay: float, *, records_last: bool) -> tuple[list[Row], Counter[str]]:
    """The rows, and what was counted, when ``delay`` seconds pass between two arrivals."""
    clock, counters, rows = FakeClock(), Counters(), list[Row]()
    pipeline = Pipeline(rows.append, Options(max_open=1800.0), counters=counters, clock=clock)

    def failed(view: SpanView, error: Exception) -> None:
        raise error

    window = Window(
        pipeline, window=10.0, settle=1.0, limit=1 << 30, counters=counters, clock=clock, on_error=failed,
        on_repeated=lambda _: None,
    )  # fmt: skip
    ordered = sorted(views, key=lambda view: view.end_ns)
    for thing in [*ordered, *records] if records_last else [*records, *ordered]:
        if isinstance(thing, SpanView):
            window.add(thing, 1000)
        else:
            window.content(thing)
        for _ in range(round(delay * 10)):
            clock.advance(0.1)
            window.tick()
    window.close()
    return rows, Counter(counters.counts)


def in_time(views: list[SpanView], records: list[LogView]) -> list[Row]:
    """The rows when everything came in time."""
    rows: list[Row] = []
    pipeline = Pipeline(rows.append, Options())
    replay(pipeline, views, records)
    pipeline.close()
    return rows


def compare(rows: list[Row], reference: list[Row]) -> Counter[str]:
    """Where the rows differ from the reference."""
    out: Counter[str] = Counter()
    expected = {row.view.span_id: row for row in reference}
    out["rows in time"] = len(reference)
    out["rows more"] = len({row.view.span_id for row in rows} - expected.keys())
    out["rows missing"] = len(expected.keys() - {row.view.span_id for row in rows})
    for row in rows:
        there = expected.get(row.view.span_id)
        if there is not None:
            out["stand elsewhere"] += row.parent_id != there.parent_id
            out["without content"] += row.facts.input is None and there.facts.input is not None
    calls = [sum(row.facts.type is ObservationType.GENERATION for row in some) for some in (rows, reference)]
    out["calls not merged"] = max(calls[0] - calls[1], 0)
    return out


def main() -> int:
    """The command line."""
    argparse.ArgumentParser(prog="python -m bench.late", description=__doc__).parse_args()
    cases = []
    for path in sorted(CORPUS.glob("*/*/traces.pb")):
        logs = path.with_name("logs.pb")
        views = [view for view in parse_traces(path.read_bytes()) if view is not None]
        cases.append((views, list(parse_logs(logs.read_bytes())) if logs.exists() else []))
    columns = (
        "rows in time", "rows more", "rows missing", "stand elsewhere", "placed_early", "expected_parents", "without content",
        "calls not merged",
    )  # fmt: skip
    print("| seconds between arrivals | records | " + " | ".join(columns) + " |")
    print("| --- " * (len(columns) + 2) + "|")
    for delay in DELAYS:
        for records_last in (False, True):
            total: Counter[str] = Counter()
            for views, records in cases:
                rows, counts = late(views, records, delay, records_last=records_last)
                total += compare(rows, in_time(views, records))
                total.update({key: counts[key] for key in ("placed_early", "expected_parents")})
            order = "last" if records_last else "first"
            print(f"| {delay:g} | {order} | " + " | ".join(f"{total[column]:,}" for column in columns) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
