"""Plots of ``results.json``; runs in the environment that has matplotlib: ``python -m bench.plots DIRECTORY``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.stats import Samples
from bench.titles import SIZES, TITLES


def main(directory: Path) -> None:
    """Writes one SVG for each kind of measurement that there is."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bench"
    from matplotlib import pyplot as plt

    samples = Samples(json.loads((directory / "results.json").read_text())["samples"])
    for metric, name, title in (
        ("process_us", "cpu-process", "CPU of the whole process, µs per span"),
        ("app_us", "cpu-application", "CPU of the application's thread, µs per span"),
    ):
        _bars(plt, samples, metric, title, directory / f"{name}.svg")
    _growth(plt, samples, directory / "growth.svg")


def _bars(plt: Any, samples: Samples, metric: str, title: str, path: Path) -> None:
    sizes = [size for size in SIZES if samples.candidates("cpu", metric, size=size, shape=None)]
    if not sizes:
        return
    figure, axes = plt.subplots(1, len(sizes), figsize=(5 * len(sizes), 4), sharey=True, squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        names = [name for name in TITLES if name in samples.candidates("cpu", metric, size=size, shape=None)]
        spreads = [samples.spread("cpu", name, metric, size=size, shape=None) for name in names]
        middle = [spread.median for spread in spreads]
        low = [spread.median - spread.low for spread in spreads]
        high = [spread.high - spread.median for spread in spreads]
        colours = ["tab:green" if name.startswith("ours") else "tab:gray" for name in names]
        axis.barh([TITLES[name] for name in names], middle, xerr=[low, high], color=colours)
        axis.invert_yaxis()
        axis.set_title(f"messages of {SIZES[size]}")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _growth(plt: Any, samples: Samples, path: Path) -> None:
    labels = {"revolving": "open traces", "flat": "spans in a trace", "nested": "depth of nesting"}
    shapes = [shape for shape in labels if samples.numbers(shape)]
    if not shapes:
        return
    figure, axes = plt.subplots(1, len(shapes), figsize=(4 * len(shapes), 3.2), squeeze=False)
    for axis, shape in zip(axes[0], shapes, strict=True):
        for name in ("sdk", "ours"):
            numbers = samples.numbers(shape)
            spreads = [samples.spread("growth", name, "process_us", shape=shape, number=number) for number in numbers]
            axis.plot(numbers, [spread.median for spread in spreads], marker="o", label=TITLES[name])
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(labels[shape])
        axis.set_ylabel("µs of CPU per span")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
