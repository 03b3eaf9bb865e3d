"""Each recipe of ``examples/`` for real: its own packages, the sidecar as ``otel-config.yaml`` has it, both other ends."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_langfuse.demo.rows import Observation, Row, observe, read_rows
from otel_langfuse.testing import FakeLangfuse, OtlpSink
from otel_langfuse.testing.stub_openai import StubOpenAI
from sidecar.recipes import EXAMPLES, ROOT, Recipe, run, served
from sidecar.sidecar_process import SidecarProcess, free_port

pytestmark = pytest.mark.live

PUBLIC, SECRET = "pk-lf-recipe", "sk-lf-recipe"
QUESTION = "Is it warmer in Paris or in Rome?"
MODEL = "gpt-4o-mini-2025-08-07"
HTTP_NOISE = re.compile(r"^(GET|POST)\b|middleware|router|request handler|http send")


@dataclass
class Ends:
    """A running sidecar between a model and its two destinations."""

    sidecar: SidecarProcess
    url: str
    stub: StubOpenAI
    langfuse: FakeLangfuse
    tempo: OtlpSink

    @property
    def variables(self) -> dict[str, str]:
        """What every recipe's README tells to set."""
        return {
            "OTEL_SERVICE_NAME": "recipe",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OPENAI_API_KEY": "stub",
            "OPENAI_BASE_URL": self.stub.url,
        }

    def copies(self) -> tuple[list[Observation], list[Row]]:
        """What both ends have when the sidecar has ended."""
        assert self.sidecar.stop() == 0, "".join(self.sidecar.log)
        return [observe(row) for row in read_rows(self.langfuse.exports)], read_rows(self.tempo.exports)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    config = yaml.safe_load((ROOT / "otel-config.yaml").read_text(encoding="utf-8"))
    port = free_port()
    protocols = config["receivers"]["otlp"]["protocols"]
    protocols["http"]["endpoint"] = f"127.0.0.1:{port}"
    protocols["grpc"]["endpoint"] = f"127.0.0.1:{free_port()}"
    config["extensions"]["admin"]["endpoint"] = f"127.0.0.1:{free_port()}"
    file = tmp_path / "otel-config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with StubOpenAI() as stub, FakeLangfuse(public_key=PUBLIC, secret_key=SECRET) as langfuse, OtlpSink() as tempo:
        environ = {
            "LANGFUSE_PUBLIC_KEY": PUBLIC,
            "LANGFUSE_SECRET_KEY": SECRET,
            "LANGFUSE_BASE_URL": langfuse.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": tempo.url,
        }
        with SidecarProcess(file, environ) as sidecar:
            yield Ends(sidecar, f"http://127.0.0.1:{port}", stub, langfuse, tempo)


def check(found: list[Observation], tempo: list[Row], *, name: str) -> list[Observation]:
    """What holds for each recipe; the generations."""
    (root,) = [one for one in found if not one.row.parent_id]
    assert root.row.name == name
    assert QUESTION in root.row.text("langfuse.observation.input")
    assert root.row.text("langfuse.observation.output")
    assert len({one.row.span_id for one in found}) == len(found)
    ids = {(row.trace_id, row.span_id) for row in tempo}
    assert all((one.row.trace_id, one.row.span_id) in ids for one in found)
    assert all(not one.row.parent_id or one.row.parent_id in {other.row.span_id for other in found} for one in found)
    assert [one.row.name for one in found if HTTP_NOISE.search(one.row.name)] == []
    generations = [one for one in found if one.type == "generation"]
    for one in generations:
        assert one.model == MODEL
        assert one.total > 0
        assert QUESTION in one.row.text("langfuse.observation.input")
        assert one.row.text("langfuse.observation.output")
    return generations


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def ask(address: str) -> str:
    return get(f"{address}/ask?{urllib.parse.urlencode({'question': QUESTION})}")


def test_node_openai(ends: Ends) -> None:
    recipe = Recipe("node-openai")
    with served(["node", "--import", "./telemetry.mjs", "app.mjs"], recipe.home, ends.variables) as address:
        assert "degrees" in ask(address)
    found, tempo = ends.copies()
    generations = check(found, tempo, name="/ask")
    assert len(generations) == 2
    assert sum(one.total for one in generations) == ends.stub.tokens
    # The prompts travelled in log records.
    assert QUESTION not in "".join(str(row.attributes) for row in tempo if row.scope.endswith("openai"))
    assert "get_weather" in generations[0].row.text("langfuse.observation.output")


def test_python_plain(ends: Ends) -> None:
    recipe = Recipe("python-plain")
    content = {
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "EVENT_ONLY",
        "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT": "true",
    }
    with served([*recipe.launcher, "app.py"], recipe.home, {**ends.variables, **content}) as address:
        assert "degrees" in ask(address)
    found, tempo = ends.copies()
    generations = check(found, tempo, name="/ask")
    assert len(generations) == 2
    assert sum(one.total for one in generations) == ends.stub.tokens
    assert QUESTION not in "".join(str(row.attributes) for row in tempo if "genai" in row.scope)
    packages = {path.name for path in (recipe.home / "venv").rglob("*.dist-info")}
    assert not [name for name in packages if name.startswith("otel_langfuse")]


def test_langchain_js(ends: Ends) -> None:
    recipe = Recipe("langchain-js")
    with served(["node", "--import", "./telemetry.mjs", "backend.mjs"], recipe.home, ends.variables) as address:
        body = json.dumps({"question": QUESTION}).encode()
        url = f"{address}/api/assistant/ask"
        with urllib.request.urlopen(
            urllib.request.Request(url, body, {"content-type": "application/json"}), timeout=30
        ) as answer:
            assert "degrees" in json.load(answer)["answer"]
        get(f"{address}/healthcheck")  # A trace without GenAI: Tempo's only.
    found, tempo = ends.copies()
    generations = check(found, tempo, name="/api/assistant/ask")
    assert len(generations) == 2
    assert sum(one.total for one in generations) == ends.stub.tokens
    names = {one.row.span_id: one.row.name for one in found}
    above = {one.row.name: names.get(one.row.parent_id) for one in found if one.row.name in ("assistant", "get_weather")}
    assert above == {"assistant": "/api/assistant/ask", "get_weather": "RunnableLambda"}
    assert {one.type for one in found} == {"span", "chain", "generation", "tool"}
    assert "GET /healthcheck" in {row.name for row in tempo}


def test_curl(ends: Ends) -> None:
    question, answer = f'{QUESTION} "quoted" \\ and\nbroken', "Paris, \t\u00e9tonnant"
    trace_id = run(["sh", "send.sh", question, answer], EXAMPLES / "curl", ends.variables).strip()
    found, tempo = ends.copies()
    assert {one.row.trace_id for one in found} == {trace_id} == {row.trace_id for row in tempo}
    (call,) = [one for one in found if one.type == "generation"]
    (said,) = json.loads(call.row.text("langfuse.observation.input"))
    assert said == {"role": "user", "content": question.replace("\n", " ")}
    assert json.loads(call.row.text("langfuse.observation.output"))["content"] == answer.replace("\t", " ")
    assert (call.model, call.usage) == ("gpt-4o-mini-2024-07-18", {"input": 12, "output": 5, "total": 17})
    (root,) = [one for one in found if not one.row.parent_id]
    assert (root.row.name, call.row.parent_id) == ("/ask", root.row.span_id)


def test_lock_files_name_no_registry() -> None:
    """So that they work with whatever registry a user has."""
    for lock in EXAMPLES.glob("*/package-lock.json"):
        content: Mapping[str, Any] = json.loads(lock.read_text(encoding="utf-8"))
        assert len(content["packages"]) > 10
        assert not [name for name, package in content["packages"].items() if "resolved" in package]


def test_every_recipe_says_how_to_run_it() -> None:
    recipes = [folder for folder in EXAMPLES.iterdir() if folder.is_dir() and any(folder.iterdir())]
    assert {folder.name for folder in recipes} >= {"node-openai", "python-plain", "langchain-js", "curl", "demo"}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for folder in recipes:
        assert f"({folder.name}/" in listed, folder.name
