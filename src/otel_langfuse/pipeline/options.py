"""What a pipeline needs to know of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from otel_langfuse.settings import Settings

__all__ = ["DEFAULT", "Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """A pipeline's settings, and its bounds.

    Attributes:
        environment, release, version: Values for spans that say nothing themselves.
        sample_rate: Share of traces to keep, decided by trace id.
        capture_content: Whether input, output and tool definitions go out at all.
        keep, drop: Globs on scope or span name.
        attribute_map: The user's rules, see `rules.apply_rules`.
        trace_link: Template with ``{trace_id}`` of the way back from Langfuse.
        join_timeout: Seconds that a model call waits for its outer span.
        linger: Seconds that a finished trace is remembered for late spans.
        max_open: Seconds after which an open span counts as never ending.
        max_nodes: Spans remembered over all traces.
        max_ids: Spans of forgotten traces whose place is remembered by id alone; 0 in process, where late spans are rare.
    """

    environment: str | None = None
    release: str | None = None
    version: str | None = None
    sample_rate: float = 1.0
    capture_content: bool = True
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    attribute_map: Mapping[str, str] = field(default_factory=dict)
    trace_link: str | None = None
    join_timeout: float = 10.0
    linger: float = 30.0
    max_open: float = 3600.0
    max_nodes: int = 200_000
    max_ids: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """The options that the settings ask for."""
        return cls(
            environment=settings.environment,
            release=settings.release,
            version=settings.version,
            sample_rate=settings.sample_rate,
            capture_content=settings.capture_content,
            keep=settings.keep,
            drop=settings.drop,
            attribute_map=settings.attribute_map,
            trace_link=settings.trace_link,
            join_timeout=settings.join_timeout,
        )

    def samples(self, trace_id: bytes) -> bool:
        """Whether a trace is kept, by the lower eight bytes of its id, as the SDK's ratio sampler decides."""
        return self.sample_rate >= 1.0 or int.from_bytes(trace_id[8:], "big") < int(self.sample_rate * 2**64)


DEFAULT = Options()
