"""Medians and spreads over interleaved rounds; ratios are taken within a round, where the machine was the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["NOTHING", "Samples", "Spread"]


@dataclass(frozen=True)
class Spread:
    """A median with the least and the most."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The spread of values; `NOTHING` without any."""
        return cls(median(values), min(values), max(values), len(values)) if values else NOTHING

    def text(self, digits: int = 0) -> str:
        """``median (low to high)``."""
        if not self.n:
            return "-"
        if self.n == 1:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


NOTHING = Spread(float("nan"), float("nan"), float("nan"), 0)


class Samples:
    """All that was measured."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self._samples = samples

    def _matching(self, measure: str, candidate: str | None, where: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for sample in self._samples:
            if sample["measure"] != measure or (candidate is not None and sample["candidate"] != candidate):
                continue
            if all(sample.get(key) == value for key, value in where.items()):
                yield sample

    def by_round(self, measure: str, candidate: str, metric: str, **where: Any) -> dict[int, float]:
        """The values of a metric by round."""
        found = self._matching(measure, candidate, where)
        return {sample["round"]: sample["values"][metric] for sample in found if metric in sample["values"]}

    def spread(self, measure: str, candidate: str, metric: str, **where: Any) -> Spread:
        """Median and spread of a metric."""
        return Spread.of(list(self.by_round(measure, candidate, metric, **where).values()))

    def ratio(self, measure: str, candidate: str, other: str, metric: str, **where: Any) -> Spread:
        """The ratio of a metric of two candidates, round by round."""
        ones = self.by_round(measure, candidate, metric, **where)
        others = self.by_round(measure, other, metric, **where)
        return Spread.of([ones[number] / others[number] for number in ones if others.get(number)])

    def candidates(self, measure: str, metric: str, **where: Any) -> list[str]:
        """The candidates for which there is a metric."""
        found = self._matching(measure, None, where)
        return list(dict.fromkeys(sample["candidate"] for sample in found if metric in sample["values"]))

    def numbers(self, shape: str) -> list[int]:
        """The steps at which growth was measured."""
        return sorted({sample["number"] for sample in self._matching("growth", None, {"shape": shape})})

    def values(self, measure: str, candidate: str, key: str, **where: Any) -> list[Any]:
        """Everything under a key, of any type."""
        return [sample["values"].get(key) for sample in self._matching(measure, candidate, where)]
