"""Where the time goes inside otel-langfuse: ``python -m bench.profiling [--size BYTES] [--functions]``.

Stages are timed one by one with the thread's own CPU clock over many spans, on one thread: the callbacks as the
application's thread runs them, then the worker's steps in its order. ``--functions`` prints the profiler's view.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from bench.workload import SCOPE, Texts, pair


class _Keep(SpanProcessor):
    """Keeps spans as they end, and times another processor's callbacks."""

    def __init__(self, inner: SpanProcessor | None = None) -> None:
        self._inner = inner
        self.spans: list[ReadableSpan] = []
        self.starting = self.ending = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._inner is not None:
            before = time.thread_time_ns()
            self._inner.on_start(span, parent_context)
            self.starting += time.thread_time_ns() - before

    def on_end(self, span: ReadableSpan) -> None:
        if self._inner is not None:
            before = time.thread_time_ns()
            self._inner.on_end(span)
            self.ending += time.thread_time_ns() - before
        self.spans.append(span)


class _Nowhere(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class _Answering:
    """A transport that takes everything."""

    def post(self, body: bytes, *, compressed: bool, timeout: float) -> Any:
        from otel_langfuse.langfuse.transport import Answer

        return Answer(200)


def _make(size: int, spans: int, inner: SpanProcessor | None = None) -> _Keep:
    provider = TracerProvider()
    keep = _Keep(inner)
    provider.add_span_processor(keep)
    unit, texts = pair(provider.get_tracer(SCOPE, "1.0")), Texts(size)
    for _ in range(spans // 2):
        unit(texts.next())
    return keep


def callbacks(size: int, spans: int) -> dict[str, float]:
    """µs per span in ``on_start`` and ``on_end``, the clock's own cost taken off."""
    from otel_langfuse.sdk.processor import LangfuseSpanProcessor

    empty = _make(size, spans, SpanProcessor())
    out = {}
    ours = LangfuseSpanProcessor(public_key="pk-lf-1", secret_key="sk-lf-1", transport=_Answering())
    for name, processor in (("BatchSpanProcessor", BatchSpanProcessor(_Nowhere())), ("ours", ours)):
        keep = _make(size, spans, processor)
        out[f"{name}.on_start"] = max(keep.starting - empty.starting, 0) / spans / 1e3
        out[f"{name}.on_end"] = max(keep.ending - empty.ending, 0) / spans / 1e3
        processor.shutdown()
    return out


class Clock:
    """The least CPU time of each stage over many small batches: what a stage costs when nothing else disturbs."""

    def __init__(self, spans: int) -> None:
        self._spans = spans
        self.best: dict[str, float] = {}

    def time(self, name: str, act: Callable[[], Any]) -> Any:
        """Runs ``act`` and keeps its time per span if it is the least so far."""
        before = time.thread_time()
        result = act()
        spent = (time.thread_time() - before) / self._spans * 1e6
        self.best[name] = min(spent, self.best.get(name, spent))
        return result


def stages(size: int, spans: int, batch: int = 32) -> dict[str, float]:
    """µs per span in each of the worker's steps, in ``spans / batch`` handfuls."""
    from otel_langfuse.counters import Counters
    from otel_langfuse.langfuse.compression import pack
    from otel_langfuse.langfuse.copy import LangfuseCopy
    from otel_langfuse.langfuse.wire import assemble
    from otel_langfuse.pipeline import Pipeline
    from otel_langfuse.pipeline.row import Row
    from otel_langfuse.sdk.arrivals import Ended, Started

    clock, rows, copy, views = Clock(batch), list[Row](), LangfuseCopy(), dict[Any, Any]()
    pipeline = Pipeline(rows.append, counters=Counters())
    started, ends = Started(baggage=False, links=None), Ended(None)
    ended = _make(size, spans // batch * batch).spans
    gc.collect()
    for at in range(0, len(ended), batch):
        some = ended[at : at + batch]
        # In the order in which a worker sees them: both starts, then both ends.
        entries = [
            entry
            for chat, root in zip(some[::2], some[1::2], strict=True)
            for entry in (_start(started, root), _start(started, chat), (ends, chat), (ends, root))
        ]
        prepared = clock.time("views", partial(_each, lambda entry: entry[0].prepare(entry, views), entries))
        clock.time("dialects", partial(pipeline.read_ahead, views.values()))
        clock.time(
            "pipeline",
            partial(_each, lambda step: step[0][0].handle(step[1], pipeline), [*zip(entries, prepared, strict=True)]),
        )
        views.clear()
        clock.time("pipeline, what has ended packed", pipeline.pause)
        encoded = clock.time("langfuse.copy.finish", partial(_each, copy.finish, rows))
        rows.clear()
        payload = clock.time("langfuse.wire.assemble", partial(assemble, encoded))
        packed = clock.time("langfuse.compression.pack, with assemble", partial(pack, encoded))
        clock.best["bytes per span"] = len(payload) / batch
        clock.best["bytes per span, compressed"] = len(packed) / batch
    return clock.best


def _each(act: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    return [act(item) for item in items]


def _start(kind: Any, span: ReadableSpan) -> Any:
    attributes = dict(span.attributes or {}) if "gen_ai.operation.name" in (span.attributes or {}) else None
    return kind, span, Context(), attributes


def functions(size: int, spans: int, number: int = 45) -> None:
    """The profiler's view of the worker's steps."""
    profile = cProfile.Profile()
    profile.runcall(stages, size, spans)
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(number)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.profiling", description=__doc__)
    parser.add_argument("--size", type=int, action="append", help="bytes of messages (4096 and 65536)")
    parser.add_argument("--spans", type=int, default=2000)
    parser.add_argument("--functions", action="store_true")
    options = parser.parse_args()
    for size in options.size or [4096, 65_536]:
        print(f"\n{size} bytes of messages, µs per span")
        for name, value in {**callbacks(size, options.spans), **stages(size, options.spans)}.items():
            print(f"  {name:45} {value:10.1f}")
        if options.functions:
            functions(size, options.spans)


if __name__ == "__main__":
    main()
