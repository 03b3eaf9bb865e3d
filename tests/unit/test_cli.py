"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_langfuse import cli
from otel_langfuse.commands import group
from otel_langfuse.demo import runner
from otel_langfuse.errors import ConfigError
from otel_langfuse.settings import Settings


@pytest.fixture(autouse=True)
def _clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("LANGFUSE_", "OTEL_")):
            monkeypatch.delenv(name)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def recording(*names: str) -> bytes:
    """An export request with one chat span per name, all in one trace."""
    spans = [
        Span(
            trace_id=bytes([1]) * 16,
            span_id=bytes([number]) * 8,
            name=name,
            start_time_unix_nano=1_000_000_000 * number,
            end_time_unix_nano=1_000_000_000 * number + 5,
            attributes=[
                KeyValue(key="gen_ai.operation.name", value=AnyValue(string_value="chat")),
                KeyValue(key="gen_ai.request.model", value=AnyValue(string_value="gpt-4o-mini")),
            ],
        )
        for number, name in enumerate(names, 1)
    ]
    scope = InstrumentationScope(name="opentelemetry.instrumentation.openai.v1")
    resource_spans = ResourceSpans(scope_spans=[ScopeSpans(scope=scope, spans=spans)])
    return ExportTraceServiceRequest(resource_spans=[resource_spans]).SerializeToString()


def span_ids(payload: bytes) -> set[bytes]:
    request = ExportTraceServiceRequest.FromString(payload)
    return {span.span_id for rs in request.resource_spans for ss in rs.scope_spans for span in ss.spans}


def test_help_names_the_commands() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("demo", "convert", "settings"):
        assert command in result.stdout


def test_version_is_the_packages() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("otel-langfuse, version ")


def test_settings_prints_the_table() -> None:
    assert run("settings").stdout == Settings.table() + "\n"


def test_without_click_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    monkeypatch.delitem(sys.modules, "otel_langfuse.commands")
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == ("otel-langfuse's command line needs click and rich: pip install 'otel-langfuse[cli]'\n")


def test_another_missing_module_is_not_blamed_on_click(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "otel_langfuse.commands", None)
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_main_runs_the_group(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["otel-langfuse", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert "version" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1])
def test_demo_ends_with_the_runners_code(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    asked = []

    def fake_run(*, serve: bool) -> int:
        asked.append(serve)
        return code

    monkeypatch.setattr(runner, "run", fake_run)
    assert run("demo", "--serve").exit_code == code
    assert asked == [True]


def test_errors_are_one_sentence_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_run(*, serve: bool) -> int:
        raise ConfigError("the demo needs fastapi: pip install 'otel-langfuse[demo]'")

    monkeypatch.setattr(runner, "run", fake_run)
    result = run("demo")
    assert result.exit_code == 2
    assert result.stderr == "Error: the demo needs fastapi: pip install 'otel-langfuse[demo]'\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "o"], "give either --traces or --tree"),
        (["--traces", "t.pb"], "--out"),
        (["--traces", "t.pb", "--tree", ".", "--out", "o"], "give either --traces or --tree"),
        (["--tree", ".", "--logs", "t.pb", "--out", "o"], "--logs belongs to --traces"),
        (["--traces", "nothing.pb", "--out", "o"], "does not exist"),
    ],
)
def test_convert_refuses_arguments_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.pb").write_bytes(b"")
    result = run("convert", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_convert_writes_the_payload_and_a_summary(tmp_path: Path) -> None:
    (tmp_path / "in.pb").write_bytes(recording("chat a", "chat b"))
    result = run("convert", "--traces", tmp_path / "in.pb", "--out", tmp_path / "new" / "out.pb")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["files"], summary["spans_in"], summary["spans_out"], summary["generations"]) == (1, 2, 2, 2)
    assert isinstance(summary["notes"], dict)
    assert span_ids((tmp_path / "new" / "out.pb").read_bytes()) == {bytes([1]) * 8, bytes([2]) * 8}


def test_convert_takes_log_records(tmp_path: Path) -> None:
    (tmp_path / "in.pb").write_bytes(recording("chat a"))
    (tmp_path / "logs.pb").write_bytes(b"")
    result = run("convert", "--traces", tmp_path / "in.pb", "--logs", tmp_path / "logs.pb", "--out", tmp_path / "out.pb")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out.pb").exists()


def test_convert_keeps_the_shape_of_a_tree_and_sums_up(tmp_path: Path) -> None:
    for library, case, names in (("a", "one", ["x"]), ("a", "two", ["x", "y"]), ("b", "one", ["x"])):
        folder = tmp_path / "in" / library / case
        folder.mkdir(parents=True)
        (folder / "traces.pb").write_bytes(recording(*names))
    (tmp_path / "in" / "a" / "one" / "logs.pb").write_bytes(b"")
    result = run("convert", "--tree", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.pb"))
    assert written == ["a/one/traces.pb", "a/two/traces.pb", "b/one/traces.pb"]
    summary = json.loads(result.stdout)
    assert (summary["files"], summary["spans_in"], summary["spans_out"]) == (3, 4, 4)


def test_convert_names_the_file_that_is_no_otlp(tmp_path: Path) -> None:
    (tmp_path / "bad.pb").write_bytes(b"\xff\xff not protobuf")
    result = run("convert", "--traces", tmp_path / "bad.pb", "--out", tmp_path / "out.pb")
    assert result.exit_code == 2
    assert "bad.pb" in result.stderr
    assert not (tmp_path / "out.pb").exists()


def test_convert_says_when_a_tree_holds_no_recording(tmp_path: Path) -> None:
    result = run("convert", "--tree", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "no */*/traces.pb below" in result.stderr


def test_convert_says_when_a_setting_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGFUSE_SAMPLE_RATE", "7")
    (tmp_path / "in.pb").write_bytes(recording("chat a"))
    result = run("convert", "--traces", tmp_path / "in.pb", "--out", tmp_path / "out.pb")
    assert result.exit_code == 2
    assert "LANGFUSE_SAMPLE_RATE" in result.stderr


def test_convert_says_when_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "in.pb").write_bytes(recording("chat a"))
    result = run("convert", "--traces", tmp_path / "in.pb", "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
