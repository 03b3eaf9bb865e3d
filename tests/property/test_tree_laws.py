"""The contraction of any tree, in any order of arrival: one root, no orphan, no span twice, ancestors' order kept."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from otel_langfuse.counters import Counters
from otel_langfuse.model import SpanView
from otel_langfuse.pipeline import Options, Pipeline
from otel_langfuse.pipeline.replay import replay
from support import Out, chat, convert_all, span, started


@dataclass(frozen=True)
class Shape:
    """A tree of spans 1..n; span 1 is the entry. ``genai`` are the numbers of those that are generations."""

    parents: dict[int, int | None]
    genai: frozenset[int]
    visible: frozenset[int]
    order: tuple[int, ...]

    def view(self, number: int) -> SpanView:
        make = chat if number in self.genai else span
        # Each generation is a call of its own: an id of its own keeps nested ones apart.
        more = {"attributes": {"gen_ai.response.id": f"r{number}"}} if number in self.genai else {}
        return make(number, self.parents[number], start=number, end=10_000 - number, **more)

    def ancestors(self, number: int) -> list[int]:
        out = []
        above = self.parents[number]
        while above is not None:
            out.append(above)
            above = self.parents[above]
        return out


@st.composite
def shapes(draw: st.DrawFn, min_genai: int = 0) -> Shape:
    size = draw(st.integers(1, 14))
    parents: dict[int, int | None] = {1: None}
    for number in range(2, size + 1):
        parents[number] = draw(st.integers(1, number - 1))
    numbers = st.sets(st.sampled_from(sorted(parents)), min_size=min_genai)
    return Shape(parents, frozenset(draw(numbers)), frozenset(draw(numbers)), tuple(draw(st.permutations(sorted(parents)))))


def check(shape: Shape, out: Out) -> None:
    parents = out.parents
    assert len(parents) == len(out.rows), "a span was written twice"
    if not shape.genai:
        assert not parents
        return
    assert shape.genai <= set(parents), "a GenAI span is missing"
    assert [number for number, above in parents.items() if above is None] == [1], "not exactly the entry is root"
    for number, above in parents.items():
        assert above is None or above in parents, "an orphan"
        assert above is None or above in shape.ancestors(number), "a row stands below a span that was no ancestor"


@given(shapes())
def test_complete_sets_contract_to_genai_spans_and_the_entry(shape: Shape) -> None:
    out = convert_all([shape.view(number) for number in shape.order])
    check(shape, out)
    assert set(out.parents) == (shape.genai | {1} if shape.genai else set())
    for number, above in out.parents.items():
        kept = [other for other in shape.ancestors(number) if other in out.parents]
        assert above == (kept[0] if kept else None), "not the nearest kept ancestor"


@given(shapes())
def test_ends_in_any_order_never_break_the_tree(shape: Shape) -> None:
    """Live: starts come top down, ends in any order, and some spans show their attributes only at the end."""
    out = Out()
    pipeline = Pipeline(out, Options())
    for number in sorted(shape.parents):
        pipeline.started(started(shape.view(number), visible=number in shape.visible))
    for number in shape.order:
        pipeline.ended(shape.view(number))
    pipeline.close()
    check(shape, out)


@given(shapes(min_genai=1), st.data())
def test_spans_that_never_end_leave_a_whole_tree(shape: Shape, data: st.DataObject) -> None:
    """At shutdown a promised span that is still open is stood in for, with its own id."""
    missing = data.draw(st.sets(st.sampled_from(sorted(shape.parents))))
    out = Out()
    pipeline = Pipeline(out, Options())
    for number in sorted(shape.parents):
        pipeline.started(started(shape.view(number), visible=number in shape.visible))
    for number in shape.order:
        if number not in missing:
            pipeline.ended(shape.view(number))
    pipeline.close()
    parents = out.parents
    assert len(parents) == len(out.rows)
    assert all(above is None or above in parents for above in parents.values())
    assert len([1 for above in parents.values() if above is None]) == (1 if shape.genai - missing else 0)


@given(shapes(), st.sets(st.integers(1, 14)))
def test_spans_that_were_never_recorded_make_entries_below_one_root(shape: Shape, unrecorded: set[int]) -> None:
    """Sampled-out parents: what stands below them is still one tree."""
    views = [shape.view(number) for number in shape.order if number not in unrecorded]
    out = convert_all(views)
    parents = out.parents
    assert all(above is None or above in parents for above in parents.values())
    assert len([1 for above in parents.values() if above is None]) == (1 if parents else 0)
    assert {number for number in shape.genai if number not in unrecorded} <= set(parents)


@given(shapes(min_genai=1))
def test_the_order_of_a_complete_set_does_not_matter(shape: Shape) -> None:
    ordered = convert_all([shape.view(number) for number in sorted(shape.parents)])
    shuffled = convert_all([shape.view(number) for number in shape.order])
    assert ordered.parents == shuffled.parents


def test_a_cycle_of_parents_does_not_hang() -> None:
    out = Out()
    replay(Pipeline(out, counters=Counters()), [chat(1, 2), chat(2, 1), chat(3, 3)])
    assert set(out.parents) == {1, 2, 3}
