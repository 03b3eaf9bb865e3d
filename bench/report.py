"""``results.md`` from ``results.json``."""

from __future__ import annotations

from typing import Any

from bench.stats import NOTHING, Samples, Spread
from bench.titles import SIZES, TITLES

__all__ = ["write_report"]

_WHERE = {"shape": None}
# What growth is compared with: the smallest number at which the mix of spans is already that of the largest.
_BASES = {"revolving": 1, "flat": 100, "nested": 10}


def write_report(results: dict[str, Any]) -> str:
    """The report as Markdown."""
    samples = Samples(results["samples"])
    parts = [
        _head(results),
        _targets(samples),
        _turns(samples),
        _cpu(samples),
        _plain(samples),
        _latency(samples),
        _burst(samples),
        _dead(samples),
        _imports(samples),
        _growth(samples),
    ]
    return "\n".join(part for part in parts if part)


def _head(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    rounds = 1 + max((sample["round"] for sample in results["samples"]), default=0)
    return f"""# What a span costs

Up to {rounds} interleaved rounds; medians, in brackets the least and the most; each figure from a process of its own.
Ratios are taken round by round. Absolute figures hold for this machine at this moment; ratios travel.

Machine: {machine["cores"]} cores, {machine["cpu"]}, {machine["system"]}, Python {machine["python"]}. {versions}.

A trace is a root span (6 attributes) and a chat span (22 attributes, 2 events, messages of the given size, English
prose); all traffic on the loopback interface, to an endpoint in a process of its own. gzip is forced where a table says
so: by itself otel-langfuse does not compress to its own machine. The Langfuse SDK runs on spans of a plain tracer.
"Every span" means that both spans of a trace are sent, as otel-langfuse does; by itself it would leave the root out.
"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _added(samples: Samples, name: str) -> dict[int, float]:
    """What a candidate adds to the application's thread, µs per span, by round of turns."""
    base, own = samples.by_round("turns", "sdk", "app_us"), samples.by_round("turns", name, "app_us")
    return {number: own[number] - base[number] for number in own if number in base}


def _over_sdk(samples: Samples, name: str, other: str) -> Spread:
    """What ``name`` adds to the application's thread, over what ``other`` adds."""
    one, two = _added(samples, name), _added(samples, other)
    return Spread.of([one[number] / two[number] for number in one if two.get(number, 0.0) > 0])


def _targets(samples: Samples) -> str:
    rows: list[list[str]] = []

    def add(what: str, spread: Spread, limit: float, digits: int = 2, unit: str = "") -> None:
        if spread is not NOTHING:
            verdict = "met" if spread.median <= limit else "missed"
            rows.append([what, f"≤ {limit:g}{unit}", spread.text(digits), verdict])

    for name in ("ours", "ours_unlinked"):
        what = f"application's thread, 4 KiB, {TITLES[name]}"
        add(f"{what}: added to the SDK, over what BatchSpanProcessor adds", _over_sdk(samples, name, "otlp"), 1.1)
        add(f"{what}: total over BatchSpanProcessor's total", samples.ratio("turns", name, "otlp", "app_us"), 1.1)
    for size, limit in ((4096, 0.4), (65_536, 0.2)):
        add(f"process, {SIZES[size]}: {TITLES['ours']} over Langfuse SDK", _process(samples, "ours", "langfuse", size), limit)
    for name in ("ours_fanout", "ours_both", "ours_env"):
        for other in ("fanout_http", "fanout_grpc"):
            add(f"process, 4 KiB: {TITLES[name]} over {TITLES[other]}", _process(samples, name, other, 4096), 0.5)
    for name in ("ours", "ours_fanout", "ours_both", "ours_env"):
        add(f"burst: lost on the way to Langfuse, {TITLES[name]}", samples.spread("burst", name, "lost_langfuse"), 0, 0)
    for way in ("closed", "silent"):
        spread = samples.spread("dead", "ours", "shutdown_s", dead=way)
        add(f"shutdown, endpoint {way}", spread, 5.5, 1, " s")
    add("import over the SDK alone", samples.spread("imports", "ours", "import_ms"), 40, 0, " ms")
    for shape, words in (("revolving", "open traces"), ("flat", "spans in a trace"), ("nested", "levels")):
        numbers = samples.numbers(shape)
        if numbers:
            add(f"cost per span at {numbers[-1]:,} {words} over {_BASES[shape]}", _grown(samples, shape, numbers[-1]), 1.2)
    return "## Targets\n\n" + _table(["what", "target", "measured", ""], rows) if rows else ""


def _process(samples: Samples, name: str, other: str, size: int) -> Spread:
    """The process's CPU over another candidate's: by turns where both took turns."""
    by_turns = samples.ratio("turns", name, other, "process_us", size=size)
    return by_turns if by_turns.n else samples.ratio("cpu", name, other, "process_us", size=size, **_WHERE)


def _grown(samples: Samples, shape: str, number: int) -> Spread:
    first = samples.by_round("growth", "ours", "process_us", shape=shape, number=_BASES[shape])
    last = samples.by_round("growth", "ours", "process_us", shape=shape, number=number)
    return Spread.of([last[n] / first[n] for n in last if n in first])


def _turns(samples: Samples) -> str:
    rows = []
    for name in TITLES:
        app = samples.spread("turns", name, "app_us")
        if app.n:
            added = Spread.of(list(_added(samples, name).values()))
            over = samples.ratio("turns", name, "otlp", "app_us")
            process = samples.spread("turns", name, "process_us")
            share = samples.ratio("turns", name, "langfuse", "process_us")
            more = added.text(1) if name != "sdk" else "-"
            rows.append([TITLES[name], app.text(), more, over.text(2), process.text(), share.text(2)])
    if not rows:
        return ""
    head = """## By turns: the application's thread and the process, 4 KiB, µs of CPU per span

Processes that live side by side and take turns, two of each candidate in a round: what a processor adds is less than two
processes measured one after the other differ by.

"""
    heads = ["thread", "added to the SDK alone", f"÷ {TITLES['otlp']}", "process", f"÷ {TITLES['langfuse']}"]
    return head + _table(["candidate", *heads], rows)


def _cpu(samples: Samples) -> str:
    out = []
    for metric, title in (
        ("app_us", "CPU of the application's thread, µs per span"),
        ("process_us", "CPU of the whole process, µs per span, flush included"),
    ):
        sizes = [size for size in SIZES if samples.candidates("cpu", metric, size=size, **_WHERE)]
        if not sizes:
            continue
        other = "otlp" if metric == "app_us" else "langfuse"
        rows = []
        for name in TITLES:
            found = [samples.spread("cpu", name, metric, size=size, **_WHERE) for size in sizes]
            if any(spread.n for spread in found):
                ratios = [samples.ratio("cpu", name, other, metric, size=size, **_WHERE) for size in sizes]
                rows.append([TITLES[name], *(s.text() for s in found), *(s.text(2) for s in ratios)])
        heads = [SIZES[size] for size in sizes]
        out.append(f"## {title}\n")
        out.append(_table(["candidate", *heads, *(f"{head} ÷ {TITLES[other]}" for head in heads)], rows))
        plot = "cpu-application" if metric == "app_us" else "cpu-process"
        out.append(f"![{title}]({plot}.svg)\n")
    rows = []
    for name in TITLES:
        cells = []
        for size in SIZES:
            sent = [
                b["langfuse"] / m
                for b, m in zip(
                    samples.values("cpu", name, "bytes", size=size, **_WHERE),
                    samples.values("cpu", name, "made", size=size, **_WHERE),
                    strict=True,
                )
            ]
            cells.append(f"{Spread.of(sent).median / 1e3:.1f}" if sent and sent[0] else "-")
        if any(cell != "-" for cell in cells):
            rows.append([TITLES[name], *cells])
    if rows:
        out += ["## Bytes sent to Langfuse, kB per span, compressed\n", _table(["candidate", *SIZES.values()], rows)]
    return "\n".join(out)


def _plain(samples: Samples) -> str:
    rows = []
    for name in TITLES:
        app = samples.spread("cpu", name, "app_us", shape="plain")
        if app.n:
            process = samples.spread("cpu", name, "process_us", shape="plain")
            rows.append([TITLES[name], app.text(), process.text()])
    if not rows:
        return ""
    head = "## Traces without a model call, µs per span\n\nOnly the Langfuse SDK, set to send every span, sends them.\n\n"
    return head + _table(["candidate", "application's thread", "process"], rows)


def _latency(samples: Samples) -> str:
    rows = []
    metrics = ("end_p50_us", "end_p99_us", "end_p999_us", "trace_p50_us", "trace_p99_us", "trace_p999_us")
    for name in TITLES:
        found = [samples.spread("latency", name, metric) for metric in metrics]
        if found[0].n:
            rows.append([TITLES[name], *(spread.text() for spread in found)])
    if not rows:
        return ""
    heads = ["candidate", "end p50", "p99", "p99.9", "2-span trace p50", "p99", "p99.9"]
    return "## Wall time at 1,000 spans a second, 4 KiB, µs\n\n" + _table(heads, rows)


def _burst(samples: Samples) -> str:
    rows = []
    for name in TITLES:
        made = samples.spread("burst", name, "made")
        if not made.n:
            continue
        cells = [
            f"{samples.spread('burst', name, f'lost_{where}').median / made.median:.0%}"
            if samples.spread("burst", name, f"lost_{where}").n
            else "-"
            for where in ("tempo", "langfuse")
        ]
        texts = [samples.spread("burst", name, key).text(1) for key in ("created_s", "flushed_s")]
        rss = [samples.spread("burst", name, key).text() for key in ("rss_before_mb", "rss_mb")]
        rows.append([TITLES[name], *cells, *texts, *rss])
    if not rows:
        return ""
    heads = [
        "candidate",
        "lost, Tempo",
        "lost, Langfuse",
        "created after, s",
        "flushed after, s",
        "RSS before, MB",
        "peak RSS, MB",
    ]
    most = max((spread.median for name in TITLES if (spread := samples.spread("burst", name, "made")).n), default=0.0)
    return f"## A burst of {most - 200:,.0f} spans, 4 KiB, default bounds\n\n" + _table(heads, rows)


def _dead(samples: Samples) -> str:
    ways = ("closed", "silent", "closed, Langfuse only", "silent, Langfuse only")
    rows = []
    for name in TITLES:
        cells = []
        for way in ways:
            shut = samples.spread("dead", name, "shutdown_s", dead=way)
            gone = samples.spread("dead", name, "exit_s", dead=way)
            cells.append(f"{shut.median:.1f} / {gone.median:.1f}" if shut.n else "-")
        if any(cell != "-" for cell in cells):
            rows.append([TITLES[name], *cells])
    if not rows:
        return ""
    text = "Seconds in `shutdown()` / until the process is gone. By environment variables nobody calls shutdown but the exit.\n"
    return (
        "## Shutdown with 400 spans while nobody answers\n\n"
        + text
        + "\n"
        + _table(
            ["candidate", "port closed", "accepts, never answers", "closed, Langfuse only", "never answers, Langfuse only"],
            rows,
        )
    )


def _imports(samples: Samples) -> str:
    rows = []
    for name in TITLES:
        spent = samples.spread("imports", name, "import_ms")
        if not spent.n:
            continue
        packages: list[str] = next(iter(samples.values("imports", name, "packages")), [])
        size = next(iter(samples.values("size", name, "added_mb")), None)
        total = next(iter(samples.values("size", name, "total_mb")), None)
        rows.append(
            [
                TITLES[name],
                spent.text(),
                samples.spread("imports", name, "modules").text(),
                f"{size:.1f} / {total:.1f}" if size is not None and total is not None else "-",
                ", ".join(packages),
            ]
        )
    if not rows:
        return ""
    sdk = Spread.of([v for name in TITLES for v in samples.by_round("imports", name, "sdk_ms").values()])
    text = f"On top of `opentelemetry.sdk.trace`, which takes {sdk.text()} ms itself.\n"
    heads = ["candidate", "ms", "modules", "installed, MB: added / in all", "packages imported"]
    return "## Import and size\n\n" + text + "\n" + _table(heads, rows)


def _growth(samples: Samples) -> str:
    out = []
    titles = {
        "revolving": "Traces open at once",
        "flat": "Spans in one trace, side by side",
        "nested": "Spans in one trace, one below the other",
    }
    for shape, title in titles.items():
        rows = []
        for number in samples.numbers(shape):
            cells = [
                samples.spread("growth", name, metric, shape=shape, number=number).text()
                for name, metric in (("sdk", "process_us"), ("ours", "process_us"), ("ours", "app_us"))
            ]
            rows.append([f"{number:,}", *cells, _grown(samples, shape, number).text(2)])
        if rows:
            heads = ["number", "SDK alone", "otel-langfuse, process", "application's thread", f"÷ {_BASES[shape]} (process)"]
            out += [f"## {title}, 0.5 KiB, by turns, µs per span\n", _table(heads, rows)]
    return "\n".join([*out, "![growth](growth.svg)\n"]) if out else ""
