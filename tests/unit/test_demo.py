"""The demo's parts: the plan of variables, the rows, the checks that fail when a promise is broken, the drawing."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from rich.console import Console

from otel_langfuse.demo import runner
from otel_langfuse.demo.checks import Check, Seen, check
from otel_langfuse.demo.render import draw_checks, draw_copies, make_console
from otel_langfuse.demo.rows import Row, observe, read_rows, walk
from otel_langfuse.demo.runner import App, make_plan, missing_packages
from otel_langfuse.errors import ConfigError

TRACE = "ab" * 16
FASTAPI = "opentelemetry.instrumentation.fastapi"
HTTPX = "opentelemetry.instrumentation.httpx"
OPENAI = "opentelemetry.instrumentation.openai.v1"


def row(number: int, parent: int, name: str, scope: str, **attributes: Any) -> Row:
    """A row whose ids are ``number`` and ``parent`` (0: none); attribute names are written with ``__`` for dots."""
    return Row(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "",
        name=name,
        scope=scope,
        start_ns=number * 1_000_000_000,
        end_ns=number * 1_000_000_000 + 5_000_000,
        attributes={key.replace("__", "."): value for key, value in attributes.items()},
    )


def observation(number: int, parent: int, name: str, kind: str, **attributes: Any) -> Row:
    """A row as Langfuse gets it, with user and session."""
    named = {"langfuse__user__id": "ada", "langfuse__session__id": "trip-7", "langfuse__observation__type": kind}
    return row(number, parent, name, FASTAPI if kind == "span" else OPENAI, **{**named, **attributes})


def usage(**buckets: int) -> dict[str, str]:
    return {"langfuse__observation__usage_details": json.dumps(buckets)}


def seen(langfuse: Sequence[Row] | None = None, tempo: Sequence[Row] | None = None) -> Seen:
    """A run in which all is well."""
    link = {"langfuse__trace__url": f"http://localhost/trace/{TRACE}"}
    full_tempo = [
        row(1, 0, "POST /ask", FASTAPI, **link),
        row(2, 1, "GET", HTTPX),
        row(3, 1, "openai.chat", OPENAI, **link),
        row(4, 3, "POST", HTTPX),
        row(5, 1, "openai.chat", OPENAI),
    ]
    model = {"langfuse__observation__model__name": "gpt-4o-mini-2025-08-07"}
    full_langfuse = [
        observation(1, 0, "travel-assistant", "span", langfuse__observation__input="[hi]"),
        observation(3, 1, "openai.chat", "generation", **model, **usage(input=6, output=4, total=10)),
        observation(
            5,
            1,
            "openai.chat",
            "generation",
            langfuse__observation__level="ERROR",
            langfuse__observation__cost_details='{"input": 0, "output": 0, "total": 0}',
        ),
    ]
    return Seen(
        tempo=full_tempo if tempo is None else tempo,
        langfuse=full_langfuse if langfuse is None else langfuse,
        answered=frozenset((TRACE,)),
        user="ada",
        session="trip-7",
        calls=2,
        tokens=10,
    )


def broken(run: Seen) -> set[str]:
    return {one.promise for one in check(run) if not one.kept}


def drawn(run: Seen, width: int = 170) -> str:
    console = Console(width=width, file=io.StringIO())
    draw_copies(console, run)
    return console.file.getvalue()


def test_a_good_run_keeps_every_promise() -> None:
    checks = check(seen())
    assert len(checks) == 12
    assert broken(seen()) == set()


def test_a_row_that_tempo_never_got_is_found() -> None:
    good = seen()
    extra = [*(good.langfuse or ()), observation(9, 1, "made up", "tool")]
    assert broken(seen(langfuse=extra)) == {"Every Langfuse span id is in Tempo"}


def test_another_trace_id_is_found() -> None:
    good = seen()
    moved = [dataclasses.replace(one, trace_id="cd" * 16) for one in good.langfuse or ()]
    assert "Same trace ids in both copies" in broken(seen(langfuse=moved))


def test_noise_below_the_entry_is_found() -> None:
    good = seen()
    noisy = [*(good.langfuse or ()), dataclasses.replace(observation(4, 3, "POST", "span"), scope=HTTPX)]
    assert broken(seen(langfuse=noisy)) == {"No HTTP or database noise in Langfuse"}


def test_a_row_that_came_twice_is_found() -> None:
    good = list(seen().langfuse or ())
    assert "Each span once in Langfuse" in broken(seen(langfuse=[*good, good[1]]))
    spans = list(seen().tempo or ())
    assert broken(seen(tempo=[*spans, spans[1]])) == {"Each span once in Tempo"}


def test_a_row_without_its_parent_is_found() -> None:
    good = list(seen().langfuse or ())
    lost = dataclasses.replace(good[1], parent_id="f" * 16)
    assert broken(seen(langfuse=[good[0], lost, good[2]])) == {"One whole tree in Langfuse"}


def test_a_row_of_nobody_is_found() -> None:
    good = list(seen().langfuse or ())
    attributes = {key: value for key, value in good[1].attributes.items() if key != "langfuse.user.id"}
    nobody = dataclasses.replace(good[1], attributes=attributes)
    assert broken(seen(langfuse=[good[0], nobody, good[2]])) == {"User and session on every row"}


def test_tokens_that_are_counted_twice_are_found() -> None:
    good = list(seen().langfuse or ())
    doubled = dataclasses.replace(
        good[1],
        attributes={**good[1].attributes, "langfuse.observation.usage_details": '{"input":6,"output":4,"total":20}'},
    )
    assert broken(seen(langfuse=[good[0], doubled, good[2]])) == {
        "Token buckets add up to the total",
        "Tokens are counted once",
    }


def test_a_call_that_is_missing_is_found() -> None:
    assert broken(seen(langfuse=list(seen().langfuse or ())[:2])) == {
        "Failed calls are errors and cost nothing",
        "One row for each call of a model",
    }


def test_an_empty_copy_keeps_no_promise_about_rows() -> None:
    names = broken(seen(langfuse=[]))
    assert names == {one.promise for one in check(seen()) if "Tempo" not in one.promise} | {
        "Every Langfuse span id is in Tempo"
    }


def test_what_cannot_be_seen_is_not_checked() -> None:
    remote = dataclasses.replace(seen(), langfuse=None, calls=None, tokens=None)
    assert {one.promise for one in check(remote)} == {"Each span once in Tempo", "Tempo's copy links to Langfuse"}


def test_rows_are_read_with_their_scope_and_values() -> None:
    tags = ArrayValue(values=[AnyValue(string_value="a"), AnyValue(string_value="b")])
    span = Span(
        trace_id=bytes.fromhex(TRACE),
        span_id=b"\x01" * 8,
        name="chat",
        start_time_unix_nano=2,
        attributes=[
            KeyValue(key="tags", value=AnyValue(array_value=tags)),
            KeyValue(key="n", value=AnyValue(int_value=3)),
            KeyValue(key="empty", value=AnyValue()),
        ],
    )
    scopes = ScopeSpans(scope=InstrumentationScope(name=OPENAI), spans=[span])
    [read] = read_rows([ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scopes])])])
    assert (read.trace_id, read.span_id, read.parent_id, read.scope) == (TRACE, "01" * 8, "", OPENAI)
    assert read.attributes == {"tags": ["a", "b"], "n": 3, "empty": None}
    assert read.text("n") == "3"
    assert read.text("empty") == ""


def test_cost_comes_from_the_prices_of_each_bucket() -> None:
    model = {"langfuse__observation__model__name": "gpt-4o-mini-2025-08-07"}
    counted = observe(observation(1, 0, "c", "generation", **model, **usage(input=10, input_cached_tokens=4, total=14)))
    assert counted.cost == pytest.approx((10 * 0.15 + 4 * 0.075) / 1_000_000)
    assert (counted.cached, counted.total, counted.tokens("input")) == (4, 14, 14)
    embedding = {"langfuse__observation__model__name": "text-embedding-3-small"}
    assert observe(observation(1, 0, "e", "embedding", **embedding, **usage(total=5))).cost == pytest.approx(1e-7)
    assert observe(observation(1, 0, "u", "generation", langfuse__observation__model__name="?")).cost is None


def test_the_first_tokens_time_counts_from_the_start() -> None:
    moment = {"langfuse__observation__completion_start_time": "1970-01-01T00:00:01.250Z"}
    assert observe(observation(1, 0, "c", "generation", **moment)).first_token_ms == pytest.approx(250)


def test_details_that_are_no_json_count_as_none() -> None:
    read = observe(observation(1, 0, "c", "generation", langfuse__observation__usage_details="{"))
    assert read.usage == {}


def test_a_tree_is_walked_with_guides_and_orphans_are_roots() -> None:
    rows = [row(1, 0, "a", ""), row(2, 1, "b", ""), row(3, 2, "c", ""), row(4, 1, "d", ""), row(5, 99, "e", "")]
    assert [guide + one.name for guide, one in walk(rows)] == ["a", "├ b", "│ └ c", "└ d", "e"]


def test_both_copies_are_drawn_with_their_numbers() -> None:
    text = drawn(seen())
    assert "Tempo: 5 spans" in text
    assert "Langfuse: 3 observations" in text
    assert "6 / 4 / 10" in text
    assert "ERROR" in text
    assert "input: [hi]" in text


def test_on_a_narrow_terminal_the_copies_stand_one_above_the_other() -> None:
    lines = drawn(seen(), width=100).splitlines()
    assert not any("Tempo:" in line and "Langfuse:" in line for line in lines)


def test_checks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    draw_checks(make_console(), [Check("A [promise]", kept=True, detail="1"), Check("B", kept=False, detail="2")])
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["ok", "A", "[promise]", "1"]
    assert second.split() == ["NO", "B", "2"]


def plan(environ: dict[str, str], *, langfuse: str | None = "http://l", otlp: str | None = "http://o") -> runner.Plan:
    return make_plan(environ, stub_root="http://s", langfuse_url=langfuse, otlp_url=otlp)


def test_with_nothing_set_all_is_local_and_no_code_is_needed() -> None:
    made = plan({"PATH": "/bin", "OTEL_TRACES_SAMPLER": "always_off", "LANGFUSE_SAMPLE_RATE": "0"})
    assert made.variables["OTEL_TRACES_EXPORTER"] == "otlp,langfuse"
    assert made.variables["LANGFUSE_BASE_URL"] == "http://l"
    assert made.variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://o"
    assert made.variables["OPENAI_BASE_URL"] == "http://s/v1"
    assert made.stubbed
    assert made.environment["PATH"] == "/bin"
    assert "OTEL_TRACES_SAMPLER" not in made.environment
    assert "LANGFUSE_SAMPLE_RATE" not in made.environment


def test_a_proxy_is_not_asked_for_this_machine() -> None:
    assert plan({"NO_PROXY": "intern"}).environment["NO_PROXY"] == "intern,127.0.0.1,localhost"
    assert plan({}).environment["no_proxy"] == "127.0.0.1,localhost"


def test_the_users_own_servers_are_used() -> None:
    own = {
        "LANGFUSE_PUBLIC_KEY": "pk-lf-1",
        "LANGFUSE_SECRET_KEY": "sk-lf-1",
        "LANGFUSE_BASE_URL": "https://langfuse.example",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://tempo:4317",
        "OPENAI_API_KEY": "sk-real",
    }
    made = plan(own, langfuse=None, otlp=None)
    assert {name: made.environment.get(name) for name in own} == own
    assert "OPENAI_BASE_URL" not in made.environment
    assert (made.langfuse_url, made.otlp_url) == ("https://langfuse.example", "http://tempo:4317")
    assert not made.stubbed
    assert "sk-lf-1" not in repr(made)


def test_missing_packages_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages() == []
    monkeypatch.setitem(runner._NEEDED, "no_such_module.below", "no-such-package")
    with pytest.raises(ConfigError, match=r"the demo needs no-such-package: pip install 'otel-langfuse\[demo\]'"):
        runner.run(environ={})


def test_half_a_key_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="only one of LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"):
        runner.run(environ={"LANGFUSE_PUBLIC_KEY": "pk-lf-1"})


def test_an_app_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(App, "command", staticmethod(lambda: ["false"]))
    with pytest.raises(ConfigError, match="did not start"), App({}):
        pass


def test_an_app_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(App, "command", staticmethod(lambda: ["sleep", "600"]))
    with pytest.raises(ConfigError, match="did not start"), App({"PATH": "/bin:/usr/bin"}, limit=0.01):
        pass
