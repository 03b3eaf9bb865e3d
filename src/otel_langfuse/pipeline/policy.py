"""Which spans are GenAI: what a reader recognised, overridden by the user's globs and callable, before contraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from otel_langfuse.model import Facts, SpanView

__all__ = ["Policy"]


class Policy:
    """Keep or leave out.

    Args:
        keep: Globs on scope or span name; a match is kept whatever it is.
        drop: Globs on scope or span name; a match is left out, unless another span names it as parent.
        should_export: The user's own word, asked last; one that raises is ignored and reported.
        report: Called with a text when ``should_export`` raised.
    """

    def __init__(
        self,
        keep: Sequence[str] = (),
        drop: Sequence[str] = (),
        should_export: Callable[[SpanView], bool | None] | None = None,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._keep = tuple(keep)
        self._drop = tuple(drop)
        self._should_export = should_export
        self._report = report

    def keeps(self, view: SpanView, facts: Facts) -> bool:
        """Whether the span gets a row of its own."""
        verdict = facts.recognised and not facts.noise
        if self._keep and _matches(view, self._keep):
            verdict = True
        if self._drop and _matches(view, self._drop):
            verdict = False
        if self._should_export is not None:
            try:
                word = self._should_export(view)
            except BaseException as error:  # noqa: BLE001  # the user's code must not stop the pipeline
                self._report(f"should_export raised {type(error).__name__}; its answer is ignored")
                return verdict
            return verdict if word is None else bool(word)
        return verdict


def _matches(view: SpanView, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(view.scope_name, glob) or fnmatchcase(view.name, glob) for glob in globs)
