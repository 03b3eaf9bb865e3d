"""Whatever is done to a configuration: it loads or is refused in sentences, and no secret shows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config import Plan, describe, parse
from otel_langfuse.sidecar.config.expansion import ExpansionError, expand

GOOD = sorted((Path(__file__).parent / "configs" / "good").glob("*.yaml"))
TEXTS = [path.read_text(encoding="utf-8") for path in GOOD]
SECRET = "hunter2"
ENVIRON = {
    "LANGFUSE_PUBLIC_KEY": "pk-lf-1234",
    "LANGFUSE_SECRET_KEY": f"sk-lf-{SECRET}",
    "SECOND_PUBLIC_KEY": "pk-lf-5678",
    "SENDERS_TOKEN": SECRET,
    "BACKENDS": "[otlp/tempo, otlp_grpc/second]",
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    st.sampled_from(
        ["${env:SENDERS_TOKEN}", "${", "${env:X}", "otlp", "langfuse", "0", "-1", "1e400", "10s", "[", "127.0.0.1:4317"]
    ),
)


def outcome(text: str) -> Plan | None:
    """The plan, or ``None`` for a refusal in sentences; the refusal shows no secret."""
    try:
        plan = parse(text, ENVIRON, "test.yaml")
    except ConfigError as error:
        message = str(error)
        assert message
        assert SECRET not in message
        for line in message.splitlines():
            assert line.startswith("test.yaml")
            assert line.isprintable()
        return None
    assert describe(plan).startswith("listeners\n")
    return plan


def paths(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at] + [path for key, child in children for path in paths(child, (*at, key))]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_value_replaced_loads_or_is_refused(data: st.DataObject) -> None:
    tree = copy.deepcopy(yaml.safe_load(data.draw(st.sampled_from(TEXTS))))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(tree)))
        assume(path)
        place = tree
        for step in path[:-1]:
            place = place[step]
        action = data.draw(st.sampled_from(["replace", "remove", "rename"]))
        if action == "replace":
            place[path[-1]] = data.draw(ODD)
        elif action == "remove":
            del place[path[-1]]
        elif isinstance(place, dict):
            place[data.draw(st.text(max_size=8))] = place.pop(path[-1])
    outcome(yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_to_the_text_loads_or_is_refused(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        action = data.draw(st.sampled_from(["drop", "double", "indent", "insert", "cut", "swap"]))
        if action == "drop" and len(lines) > 1:
            del lines[at]
        elif action == "double":
            lines.insert(at, lines[at])
        elif action == "indent":
            lines[at] = data.draw(st.sampled_from([" ", "  ", "\t", "- "])) + lines[at]
        elif action == "insert":
            lines[at] += data.draw(st.text(max_size=6))
        elif action == "cut":
            lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
        else:
            other = data.draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
    outcome("\n".join(lines))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_at_all_loads_or_is_refused(text: str) -> None:
    outcome(text)


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=60), st.text(max_size=10), st.text(max_size=10))
def test_what_a_variable_holds_arrives_as_it_is(value: str, before: str, after: str) -> None:
    written = f"{before.replace('$', '$$')}${{env:NAME}}{after.replace('$', '$$')}"
    assert expand(written, {"NAME": value}).text == before + value + after
    assert expand((before + value).replace("$", "$$"), {}).text == before + value


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_a_secret_arrives_as_it_is_and_never_shows(value: str) -> None:
    secret = f"{value}{SECRET}"
    text = TEXTS[[path.stem for path in GOOD].index("lean")]
    changed = text.replace("Authorization: Bearer ${env:SENDERS_TOKEN}", "X-Token: " + json.dumps("${env:TOKEN}"))
    environ = {**ENVIRON, "TOKEN": secret}
    if any(char > "\xff" for char in secret):
        # Headers are Latin-1; nothing else is wrong with it.
        with pytest.raises(ConfigError) as caught:
            parse(changed, environ, "test.yaml")
        assert SECRET not in str(caught.value)
        return
    plan = parse(changed, environ, "test.yaml")
    assert plan.otlp[0].exporter.headers["X-Token"].get_secret_value() == secret  # type: ignore[union-attr]
    assert SECRET not in repr(plan) + describe(plan)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="${}:-envfile AB", max_size=40))
def test_an_expansion_ends_in_a_text_or_in_one_error_without_values(text: str) -> None:
    assume("file" not in text)
    message = ""
    try:
        expand(text, {"A": SECRET, "B": SECRET})
    except ExpansionError as error:
        message = str(error)
    assert SECRET not in message
