"""Every code block of the README runs, against local stand-ins for OpenAI, Langfuse and Tempo.

A block is known by its section and its number there. What is replaced before it runs is in ``SUBSTITUTIONS``, what
cannot run is in ``NOT_RUN`` with the reason; a new block fails here until it has its place.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from otel_langfuse.testing import FakeLangfuse, OtlpSink
from otel_langfuse.testing.stub_openai import StubOpenAI

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PUBLIC, SECRET = "pk-lf-1234", "sk-lf-1234"
# Proxies and certificates that installing needs, as they were before each test starts with a clean environment.
AT_START = dict(os.environ)

# What the README says -> what runs: the built wheel for the published package, local servers for those of the user.
SUBSTITUTIONS = {
    "'otel-langfuse[": "'{wheel}[",
    "https://cloud.langfuse.com": "{langfuse}",
    "http://localhost:4317": "{tempo_grpc}",
    "http://localhost:4318": "{tempo_http}",
}
NOT_RUN = {
    ("See it", 1): "this test is a part of make test, and tests/live runs the demo",
    ("See it", 2): "a picture of what the demo prints",
}


@dataclass(frozen=True)
class Block:
    section: str
    number: int
    language: str
    text: str

    @property
    def key(self) -> tuple[str, int]:
        return self.section, self.number


def read_blocks() -> dict[tuple[str, int], Block]:
    found: dict[tuple[str, int], Block] = {}
    section, number = "", 0
    lines = iter((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    for line in lines:
        if re.match("#+ ", line):
            section, number = line.lstrip("# "), 0
        elif line.startswith("```"):
            number += 1
            body = []
            for inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            found[section, number] = Block(section, number, line[3:], "\n".join(body) + "\n")
    return found


BLOCKS = read_blocks()


class GrpcSink(TraceServiceServicer):  # type: ignore[misc]  # the base has no types
    """A receiver of OTLP over gRPC, as Tempo is one at port 4317."""

    def __init__(self) -> None:
        self.exports: list[ExportTraceServiceRequest] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:
        self.exports.append(request)
        return ExportTraceServiceResponse()

    def __enter__(self) -> GrpcSink:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(5)


@dataclass
class World:
    """What stands around a block while it runs."""

    langfuse: FakeLangfuse
    tempo: OtlpSink
    tempo_grpc: GrpcSink
    openai: StubOpenAI
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the README's user has set besides: an OpenAI key, and here its address."""
        clean = {key: value for key, value in AT_START.items() if not key.startswith(("OTEL_", "LANGFUSE_", "OPENAI_"))}
        local = {"OPENAI_BASE_URL": self.openai.url, "OPENAI_API_KEY": "stub"}
        return clean | local | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")

    @property
    def configured(self) -> dict[str, str]:
        """The same with the variables of the quick start, for blocks of Python."""
        return self.environment | {
            "LANGFUSE_PUBLIC_KEY": PUBLIC,
            "LANGFUSE_SECRET_KEY": SECRET,
            "LANGFUSE_BASE_URL": self.langfuse.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.tempo.url,
        }

    def python(self, block: Block, tail: str = "") -> subprocess.CompletedProcess[str]:
        """Runs the block, and ``tail`` behind it."""
        script = self.folder / "block.py"
        script.write_text(block.text + tail, encoding="utf-8")
        return run([sys.executable, str(script)], self.configured, self.folder)

    def shell(self, text: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return run(["/bin/sh", "-e", "-c", text], environment, self.folder)

    @property
    def names(self) -> list[str]:
        """The rows that Langfuse got."""
        return sorted(span.name for span in self.langfuse.spans)

    def rows(self) -> list[dict[str, Any]]:
        """The text attributes of each row that Langfuse got."""
        return [{pair.key: pair.value.string_value for pair in span.attributes} for span in self.langfuse.spans]


def run(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with (
        FakeLangfuse(public_key=PUBLIC, secret_key=SECRET) as langfuse,
        OtlpSink() as tempo,
        GrpcSink() as tempo_grpc,
        StubOpenAI() as openai,
    ):
        yield World(langfuse, tempo, tempo_grpc, openai, tmp_path)


# ------------------------------------------------------------------------------------------- the list of blocks


def test_every_block_has_its_place() -> None:
    tested = {ast.literal_eval(key) for key in re.findall(r"BLOCKS\[(.+?)\]", Path(__file__).read_text("utf-8"))}
    assert set(BLOCKS) == tested | set(NOT_RUN)


def test_local_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    anchors = {re.sub("[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in re.findall("^#+ (.+)$", text, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (ROOT / target).is_file(), target


def test_generated_parts_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "docs" / "regenerate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------ Python


def test_the_application_needs_no_tracing(world: World) -> None:
    done = world.python(BLOCKS["Quick start", 1])
    assert "What is a span?" in done.stdout
    assert world.langfuse.requests == []


def test_in_code(world: World) -> None:
    done = world.python(BLOCKS["In code", 1])
    assert done.stderr == ""
    status = ast.literal_eval(done.stdout)
    assert (status["counters"]["sent"], status["dropped"], status["environment"]) == (2, {}, "production")
    assert {span.span_id for span in world.langfuse.spans} <= {span.span_id for span in world.tempo.spans}
    assert world.names == ["openai.chat", "travel question"]
    assert [(row["langfuse.user.id"], row["langfuse.session.id"]) for row in world.rows()] == [("ada", "trip-7")] * 2


def test_masking(world: World) -> None:
    tail = """
from opentelemetry.sdk.trace import TracerProvider

provider = TracerProvider()
provider.add_span_processor(LangfuseSpanProcessor(mask=mask))
call = {"langfuse.observation.type": "span", "langfuse.observation.input": "Ada Lovelace asks"}
provider.get_tracer("my-app").start_span("question", attributes=call).end()
provider.shutdown()
"""
    assert world.python(BLOCKS["Masking", 1], tail).stderr == ""
    assert [row["langfuse.observation.input"] for row in world.rows()] == ["[name] asks"]


def test_choosing_spans(world: World) -> None:
    tail = """
from opentelemetry.sdk.trace import TracerProvider

provider = TracerProvider()
provider.add_span_processor(LangfuseSpanProcessor(should_export=should_export, drop=["*healthz*"]))
call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini"}
for scope, name, attributes in (
    ("my.retriever", "find", {}),
    ("genai", "warm-up", call),
    ("genai", "GET /healthz", call),
    ("genai", "chat", call),
    ("db", "SELECT", {}),
):
    provider.get_tracer(scope).start_span(name, attributes=attributes).end()
provider.shutdown()
"""
    assert world.python(BLOCKS["Choosing spans", 1], tail).stderr == ""
    assert world.names == ["chat", "find"]


def test_content_in_log_records(world: World) -> None:
    tail = """
from opentelemetry._logs import LogRecord
from opentelemetry.sdk.trace import TracerProvider
from otel_langfuse import LangfuseSpanProcessor

provider = TracerProvider()
provider.add_span_processor(LangfuseSpanProcessor())
call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini"}
with provider.get_tracer("genai").start_as_current_span("chat", attributes=call):
    asked = '[{"role":"user","parts":[{"type":"text","content":"from a log record"}]}]'
    details = "gen_ai.client.inference.operation.details"
    logs.get_logger("genai").emit(LogRecord(event_name=details, attributes={"gen_ai.input.messages": asked}))
provider.shutdown()
"""
    assert world.python(BLOCKS["Content in log records", 1], tail).stderr == ""
    assert "from a log record" in world.rows()[0]["langfuse.observation.input"]


def test_the_exporter_alone(world: World) -> None:
    done = world.python(BLOCKS["The exporter alone", 1])
    assert done.stderr.startswith("otel-langfuse: LangfuseSpanExporter works alone")
    assert world.names == ["chat gpt-4o-mini"]


def test_sigterm_becomes_an_exit(world: World) -> None:
    tail = """
import os
from opentelemetry.sdk.trace import TracerProvider
from otel_langfuse import LangfuseSpanProcessor

provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(LangfuseSpanProcessor(flush_interval=60))
call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini"}
provider.get_tracer("genai").start_span("the last one", attributes=call).end()
os.kill(os.getpid(), signal.SIGTERM)
"""
    assert world.python(BLOCKS["When things go wrong", 1], tail).stderr == ""
    assert world.names == ["the last one"]


def test_status_has_the_fields_that_are_shown(world: World) -> None:
    shown = json.loads(BLOCKS["Status", 1].text)
    told = ast.literal_eval(world.python(BLOCKS["In code", 1]).stdout)
    assert shown.keys() == told.keys()
    assert shown["counters"].keys() == told["counters"].keys()


# ------------------------------------------------------------------------------------------------------- shell


def test_convert(world: World) -> None:
    case = ROOT / "tests" / "corpus" / "data" / "openai-v2-event-only" / "chat_basic"
    for name in ("traces.pb", "logs.pb"):
        shutil.copy(case / name, world.folder)
    environment = world.environment | {"PATH": f"{BIN}{os.pathsep}{AT_START['PATH']}"}
    done = world.shell(BLOCKS["Converting recorded OTLP", 1].text, environment)
    assert json.loads(done.stdout) == json.loads(BLOCKS["Converting recorded OTLP", 2].text)
    assert (world.folder / "langfuse.pb").stat().st_size > 0


def install_and_run(world: World, *blocks: Block) -> subprocess.CompletedProcess[str]:
    """Runs shell blocks as one script in a new virtual environment that gets the wheel and what it asks for."""
    home = world.folder / "venv"
    venv.create(home, with_pip=True)
    binaries = home / "bin"
    environment = world.environment | {
        "PATH": f"{binaries}{os.pathsep}{AT_START['PATH']}",
        "PIP_PROGRESS_BAR": "off",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    environment.pop("VIRTUAL_ENV", None)
    run(
        [str(binaries / "pip"), "wheel", "--quiet", "--no-deps", "--wheel-dir", str(world.folder), str(ROOT)],
        environment,
        world.folder,
    )
    (wheel,) = world.folder.glob("otel_langfuse-*.whl")
    (world.folder / "app.py").write_text(BLOCKS["Quick start", 1].text, encoding="utf-8")
    script = "".join(block.text for block in blocks)
    for said, meant in SUBSTITUTIONS.items():
        script = script.replace(
            said,
            meant.format(wheel=wheel, langfuse=world.langfuse.url, tempo_grpc=world.tempo_grpc.url, tempo_http=world.tempo.url),
        )
    return world.shell(script, environment)


@pytest.mark.live
def test_quick_start(world: World) -> None:
    done = install_and_run(world, BLOCKS["Quick start", 2])
    assert "What is a span?" in done.stdout
    assert done.stderr == ""
    assert world.names == ["openai.chat"]
    assert "What is a span?" in world.rows()[0]["langfuse.observation.input"]
    (export,) = world.tempo_grpc.exports
    spans = [span for group in export.resource_spans for scope in group.scope_spans for span in scope.spans]
    assert {span.span_id for span in world.langfuse.spans} <= {span.span_id for span in spans}


@pytest.mark.live
def test_prompts_stay_out_of_tempo(world: World) -> None:
    variables = [line for line in BLOCKS["Quick start", 2].text.splitlines() if line.startswith("export ")]
    before = Block("", 0, "sh", "\n".join(variables) + "\n")
    done = install_and_run(world, before, BLOCKS["Prompts in Langfuse, not in Tempo", 1])
    assert "What is a span?" in done.stdout
    assert done.stderr == ""
    assert world.names == ["chat gpt-4o-mini"]
    assert "What is a span?" in world.rows()[0]["langfuse.observation.input"]
    assert [span.span_id for span in world.tempo.spans] == [span.span_id for span in world.langfuse.spans]
    assert b"What is a span?" not in b"".join(request.payload for request in world.tempo.requests)


@pytest.mark.live
def test_both_copies_from_one_queue(world: World) -> None:
    before = [line for line in BLOCKS["Quick start", 2].text.splitlines() if not line.startswith("opentelemetry-instrument")]
    done = install_and_run(world, Block("", 0, "sh", "\n".join(before) + "\n"), BLOCKS["Both copies from one queue", 1])
    assert "What is a span?" in done.stdout
    assert done.stderr == ""
    assert world.names == ["openai.chat"]
    assert "What is a span?" in world.rows()[0]["langfuse.observation.input"]
    assert [span.span_id for span in world.tempo.spans] == [span.span_id for span in world.langfuse.spans]
    assert b"What is a span?" not in b"".join(request.payload for request in world.tempo.requests)
    assert world.tempo_grpc.exports == []


@pytest.mark.live
def test_the_sidecar(world: World) -> None:
    """The wheel with its extra knows its configuration, and runs with it until it is told to end."""
    start = 'otel-langfuse collector 2>log & pid=$!\nuntil grep -q "is up" log; do kill -0 $pid; done\nkill $pid; wait $pid\n'
    done = install_and_run(world, BLOCKS["Sidecar", 1], Block("", 0, "sh", start))
    assert "langfuse" in done.stdout
    assert "http://tempo:4318" in done.stdout
    assert SECRET not in done.stdout
    assert (world.folder / "journal" / "journal.sqlite3").is_file()
