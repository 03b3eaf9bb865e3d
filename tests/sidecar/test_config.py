"""The sidecar's configuration: what loads, what it comes to, and what is said about everything else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import jsonschema
import pytest
import trustme
import yaml

from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config import Plan, describe, json_schema, load, parse, settings_of
from otel_langfuse.sidecar.config.editor_schema import json_schema_text
from otel_langfuse.sidecar.config.kinds import ALIASES, INSTEAD, INSTEAD_OF_KEYS, KINDS
from otel_langfuse.sidecar.config.loading import BUILT_IN
from otel_langfuse.sidecar.config.schema import DebugExporter
from otel_langfuse.sidecar.entry import Signal

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / "configs"
BAD = sorted((CONFIGS / "bad").glob("*.yaml"))
GOOD = sorted((CONFIGS / "good").glob("*.yaml"))

# Everything that must never show contains this word.
SECRET = "hunter2"
ENVIRON = {
    "LANGFUSE_PUBLIC_KEY": "pk-lf-1234",
    "LANGFUSE_SECRET_KEY": f"sk-lf-{SECRET}",
    "SECOND_PUBLIC_KEY": "pk-lf-5678",
    "SECRET_WORD": SECRET,
    "SENDERS_TOKEN": SECRET,
    "BACKENDS": "[otlp/tempo, otlp_grpc/second]",
    "BROKEN_LIST": "[langfuse",
    "EMPTY": "",
}
KEYS = {name: ENVIRON[name] for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")}

TO_LANGFUSE = """
receivers:
  otlp:
    protocols:
      http:
{listener}
processors:
  langfuse:
{processor}
exporters:
  langfuse:
    public_key: ${{env:LANGFUSE_PUBLIC_KEY}}
    secret_key: ${{env:LANGFUSE_SECRET_KEY}}
{exporter}
service:
  pipelines:
    traces:
      receivers: [otlp]
      processors: [langfuse]
      exporters: [langfuse]
"""


def to_langfuse(listener: str = "", processor: str = "", exporter: str = "", environ: Mapping[str, str] = ENVIRON) -> Plan:
    """A plan with one listener and one project, with more lines in either."""
    text = TO_LANGFUSE.format(
        listener=_indented(listener, 8), processor=_indented(processor, 4), exporter=_indented(exporter, 4)
    )
    return parse(text, environ, "test.yaml")


def _indented(lines: str, by: int) -> str:
    return "\n".join(" " * by + line for line in lines.splitlines())


def refusal(call: object, *arguments: object, **keywords: object) -> str:
    assert callable(call)
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **keywords)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ the examples


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_its_message(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, ENVIRON)
    message = str(caught.value)
    assert message + "\n" == path.with_suffix(".txt").read_text(encoding="utf-8")
    assert SECRET not in message
    assert caught.value.source == path.name
    length = len(path.read_text(encoding="utf-8").splitlines())
    for line in message.splitlines():
        found = re.match(re.escape(path.name) + r"(?::(\d+))?: .+", line)
        assert found is not None
        assert 1 <= int(found[1] or 1) <= length + 1


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_file_comes_to_what_it_says(path: Path) -> None:
    plan = load(path, ENVIRON)
    assert describe(plan) + "\n" == path.with_suffix(".txt").read_text(encoding="utf-8")
    assert SECRET not in describe(plan)
    assert "sk-lf" not in repr(plan)


def test_every_example_has_its_text() -> None:
    for folder in ("bad", "good"):
        names = {path.stem for path in (CONFIGS / folder).glob("*.yaml")}
        assert names == {path.stem for path in (CONFIGS / folder).glob("*.txt")}
    assert len(BAD) > 100


@pytest.mark.parametrize("section", INSTEAD)
def test_what_is_left_to_a_collector_is_said_for_every_such_component(section: str) -> None:
    assert not INSTEAD[section].keys() & KINDS.get(section, {}).keys()
    assert not INSTEAD[section].keys() & ALIASES.get(section, {}).keys()
    for kind, remedy in INSTEAD[section].items():
        text = BUILT_IN.read_text(encoding="utf-8").replace(f"\n{section}:\n", f"\n{section}:\n  {kind}:\n")
        message = refusal(parse, text, KEYS, "test.yaml")
        assert message.endswith(f": {section}.{kind}: {kind} is not known here; {remedy}")


def test_no_key_that_the_models_have_is_called_foreign_where_it_is_known() -> None:
    for kinds in KINDS.values():
        for model in kinds.values():
            assert not model.model_fields.keys() & INSTEAD_OF_KEYS.keys()


# ------------------------------------------------------------------------------------------------------- the default


def test_the_file_that_is_copied_is_the_built_in_configuration() -> None:
    assert (ROOT / "otel-config.yaml").read_text(encoding="utf-8") == BUILT_IN.read_text(encoding="utf-8")


def test_the_default_runs_with_keys_alone() -> None:
    plan = load(None, KEYS)
    assert [(listener.protocol.endpoint, listener.token) for listener in plan.listeners] == [
        ("127.0.0.1:4317", None),
        ("127.0.0.1:4318", None),
    ]
    assert all(listener.signals == {Signal.TRACES, Signal.LOGS} for listener in plan.listeners)
    (project,) = plan.langfuse
    assert (project.name, project.exporter.base_url) == ("langfuse", "https://cloud.langfuse.com")
    assert project.receivers == {Signal.TRACES: {"otlp"}, Signal.LOGS: {"otlp"}}
    assert (project.values, project.is_default, project.counts_unrouted) == (None, False, False)
    (tempo,) = plan.otlp
    assert (tempo.name, tempo.signals) == ("otlp_http/tempo", {Signal.TRACES})
    assert tempo.exporter.content == "keep"  # type: ignore[union-attr]
    assert plan.journal.directory is None
    assert plan.admin is not None
    assert plan.admin.key is None
    assert [warning.partition(": ")[2] for warning in plan.warnings] == [
        "extensions.admin.key: is not set, so status and flush answer 403; health and metrics are served"
    ]


def test_the_default_takes_everything_from_the_environment() -> None:
    environ = {
        **KEYS,
        "LANGFUSE_BASE_URL": "http://langfuse:3000/",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://tempo:4318",
        "OTEL_LANGFUSE_JOURNAL_DIRECTORY": "/var/lib/journal",
        "OTEL_LANGFUSE_ADMIN_KEY": SECRET,
        "OTEL_LANGFUSE_HOST": "::1",
        "OTEL_LANGFUSE_MASK": "email,card",
        "LANGFUSE_TRACING_ENVIRONMENT": "staging",
    }
    assert "no address" in refusal(load, None, environ)
    plan = load(None, {**environ, "OTEL_LANGFUSE_HOST": "[::1]"})
    assert plan.warnings == ()
    assert plan.langfuse[0].exporter.base_url == "http://langfuse:3000"
    assert plan.langfuse[0].processor.mask == ("email", "card")
    assert plan.langfuse[0].processor.environment == "staging"
    assert plan.otlp[0].exporter.endpoint == "http://tempo:4318"  # type: ignore[union-attr]
    assert plan.journal.directory == "/var/lib/journal"
    assert plan.admin is not None
    assert plan.admin.key is not None
    assert plan.admin.key.get_secret_value() == SECRET
    assert plan.admin.endpoint == "[::1]:13133"


def test_without_keys_both_are_named() -> None:
    lines = refusal(load, None, {}).splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
        f"exporters.langfuse.{key}: {name} is not set; export it or write ${{env:{name}:-…}}"
        for key, name in (("public_key", "LANGFUSE_PUBLIC_KEY"), ("secret_key", "LANGFUSE_SECRET_KEY"))
    ]


def test_an_application_s_endpoint_would_send_in_a_circle() -> None:
    message = refusal(load, None, {**KEYS, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"})
    assert "port 4317 of this machine is the sidecar's own" in message


# --------------------------------------------------------------------------------------------------------- the files


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    assert "cannot be read: No such file or directory" in refusal(load, tmp_path / "none.yaml", KEYS)
    assert "cannot be read: Is a directory" in refusal(load, tmp_path, KEYS)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"# first\n# caf\xe9\n")
    assert refusal(load, latin, KEYS) == "latin.yaml:2: is no UTF-8 text; save the file as UTF-8"
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 21))
    assert "more than 1048576 bytes" in refusal(load, large, KEYS)
    assert "is the most that is read" in refusal(parse, "#" * (1 << 19), KEYS, "large.yaml")
    marked = tmp_path / "marked.yaml"
    marked.write_bytes(b"\xef\xbb\xbf" + BUILT_IN.read_bytes())
    assert load(marked, KEYS).langfuse == load(None, KEYS).langfuse


def test_many_problems_are_bounded() -> None:
    text = "".join(f"unknown_{number}: 1\n" for number in range(200))
    lines = refusal(parse, text, {}, "test.yaml").splitlines()
    assert len(lines) == 51
    assert lines[-1] == "test.yaml: and 153 more problems"


def test_nesting_beyond_all_measure_is_refused_and_not_followed() -> None:
    message = refusal(parse, "receivers: " + "[" * 100_000, {}, "test.yaml")
    assert message == "test.yaml:1: nests deeper than 32 levels; no configuration needs that"


# ----------------------------------------------------------------------------------------------------------- ${env:…}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("${env:NAME}", "value"),
        ("${NAME}", "value"),
        ("a-${env:NAME}-b", "a-value-b"),
        ("${env:NONE:-other}", "other"),
        ("${NONE:-other}", "other"),
        ("${env:BLANK:-other}", "other"),
        ("${env:NAME:-other}", "value"),
        ("${env:NONE:-${env:NAME}}", "value"),
        ("${env:NONE:-x{y}z}", "x{y}z"),
        ("x${env:NONE:-}y", "xy"),
        ("$${env:NAME}", "${env:NAME}"),
        ("$$$${NAME}", "$${NAME}"),
        ("$$${env:NAME}", "$value"),
        ("cost: 5$", "cost: 5$"),
        ("$NAME", "$NAME"),
        ("${env:DOLLARS}", "a$$b${env:NAME}"),
        ("${env:NUMBER}", "0123"),
        ("${env:LIST}", "[a, b]"),
        ("1.10", "1.10"),
        ("0x10", "0x10"),
    ],
)
def test_expansion(written: str, expected: str) -> None:
    environ = {
        **KEYS,
        "NAME": "value",
        "BLANK": "",
        "DOLLARS": "a$$b${env:NAME}",
        "NUMBER": "0123",
        "LIST": "[a, b]",
    }
    for quoted in (json.dumps(written), "'" + written + "'"):
        assert to_langfuse(processor=f"release: {quoted}", environ=environ).langfuse[0].processor.release == expected


def test_types_come_from_the_key_and_not_from_the_text() -> None:
    environ = {**KEYS, "SIZE": "64MiB", "SHARE": "0.5", "OFF": "false", "COUNT": "7", "TIME": "1m30s", "NAMES": "[email, card]"}
    processor = to_langfuse(
        processor="sample_rate: ${env:SHARE}\ncapture_content: ${env:OFF}\nwindow: ${env:TIME}\nmask: ${env:NAMES}\nversion: 2",
        exporter="flush_at: ${env:COUNT}\nrequest_bytes: ${env:SIZE}",
        environ=environ,
    ).langfuse[0]
    assert (processor.processor.sample_rate, processor.processor.capture_content) == (0.5, False)
    assert (processor.processor.window, processor.processor.mask) == (90.0, ("email", "card"))
    assert processor.processor.version == "2"
    assert (processor.exporter.flush_at, processor.exporter.request_bytes) == (7, 64 << 20)


def test_a_mounted_file_gives_a_secret(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-lf-mounted\n")
    text = TO_LANGFUSE.format(listener="", processor="", exporter="").replace(
        "${env:LANGFUSE_SECRET_KEY}", f"${{file:{secret}}}"
    )
    plan = parse(text, KEYS, "test.yaml")
    assert plan.langfuse[0].exporter.secret_key.get_secret_value() == "sk-lf-mounted"
    secret.write_bytes(b"x" * (1 << 17))
    assert "larger than 64 KiB" in refusal(parse, text, KEYS, "test.yaml")
    secret.write_bytes(b"\xff\xfe")
    assert "no UTF-8 text" in refusal(parse, text, KEYS, "test.yaml")


def test_what_expands_to_nothing_is_not_given() -> None:
    project = to_langfuse(
        processor="\n".join(f"{key}: ${{env:NONE:-}}" for key in ("environment", "mask", "window", "attribute_map", "routing")),
        exporter="base_url: ${env:NONE:-}\nheaders:\n  X-Team: ${env:NONE:-}\ntls: ${env:NONE:-}",
    ).langfuse[0]
    assert (project.processor.environment, project.processor.mask, project.processor.window) == (None, (), 10.0)
    assert (project.processor.attribute_map, project.processor.routing) == ({}, None)
    assert (project.exporter.base_url, project.exporter.headers) == ("https://cloud.langfuse.com", {})


# ------------------------------------------------------------------------------------------------------------ routing


@pytest.mark.parametrize(
    ("journal", "written", "seconds"),
    [
        ("{directory: /var/lib/j}", "", 0.0),
        ("{directory: /var/lib/j}", "{enabled: true}", 0.0),
        ("{directory: /var/lib/j}", "{max_elapsed_time: 90s}", 90.0),
        ("{directory: /var/lib/j}", "{max_elapsed_time: 600s}", 600.0),
        ("{max_bytes: 64MiB}", "", 600.0),
    ],
)
def test_with_a_journal_on_disk_nothing_is_given_up_unless_asked(journal: str, written: str, seconds: float) -> None:
    text = TO_LANGFUSE.format(listener="", processor="", exporter=f"    retry_on_failure: {written}")
    text = text.replace("service:", f"  otlp_http:\n    endpoint: http://tempo\n    retry_on_failure: {written}\nservice:")
    text = text.replace("service:", f"extensions:\n  journal: {journal}\nservice:\n  extensions: [journal]")
    text += "    traces/tempo:\n      receivers: [otlp]\n      exporters: [otlp_http]\n"
    plan = parse(text, ENVIRON, "test.yaml")
    backend = plan.otlp[0].exporter
    assert not isinstance(backend, DebugExporter)
    assert plan.langfuse[0].exporter.retry_on_failure.max_elapsed_time == seconds
    assert backend.retry_on_failure.max_elapsed_time == seconds
    assert backend.retry_on_failure.initial_interval == 0.5


def test_routes_lead_to_ends() -> None:
    acme, bond = load(CONFIGS / "good" / "routing.yaml", ENVIRON).langfuse
    assert (acme.values, acme.is_default, acme.counts_unrouted) == ({"acme", "apex"}, False, True)
    assert (bond.values, bond.is_default, bond.counts_unrouted) == ({"007"}, False, False)
    assert acme.receivers == bond.receivers == {Signal.TRACES: {"otlp"}, Signal.LOGS: {"otlp"}}


def test_a_default_route_leaves_nothing_to_count() -> None:
    text = (CONFIGS / "good" / "routing.yaml").read_text(encoding="utf-8")
    text = text.replace("      attribute: tenant.id\n", "      attribute: tenant.id\n      default: langfuse/bond\n")
    acme, bond = parse(text, ENVIRON, "test.yaml").langfuse
    assert (acme.is_default, bond.is_default) == (False, True)
    assert not acme.counts_unrouted
    assert not bond.counts_unrouted


# ----------------------------------------------------------------------------------------------------- TLS and tokens


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in ("one", "two"):
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    (folder / "text.pem").write_text("no certificate\n")
    return folder


def test_a_listener_with_tls_and_client_certificates_is_protected(certificates: Path) -> None:
    tls = f"tls:\n  cert_file: {certificates}/one.pem\n  key_file: {certificates}/one.key\n"
    open_to_all = "endpoint: 0.0.0.0:4318\n" + tls
    plan = to_langfuse(listener=open_to_all)
    assert len(plan.warnings) == 1
    assert "asks for no token" in plan.warnings[0]
    plan = to_langfuse(listener=open_to_all + f"  client_ca_file: {certificates}/ca.pem\n")
    assert plan.warnings == ()
    assert "TLS with client certificates" in describe(plan)


def test_certificates_are_tried_at_start(certificates: Path) -> None:
    pair = "tls:\n  cert_file: {0}/{1}\n  key_file: {0}/{2}\n"
    for cert, key in (("one.pem", "two.key"), ("text.pem", "one.key"), ("one.pem", "text.pem")):
        message = refusal(to_langfuse, listener=pair.format(certificates, cert, key))
        assert message.partition(": ")[2].startswith(
            "receivers.otlp.protocols.http.tls.cert_file: the certificate and key_file cannot be used together"
        )
    message = refusal(
        to_langfuse,
        listener=pair.format(certificates, "one.pem", "one.key") + f"  client_ca_file: {certificates}/text.pem\n",
    )
    assert "tls.client_ca_file: holds no certificate" in message


def test_a_token_is_known_to_the_listener_and_to_nobody_else() -> None:
    plan = load(CONFIGS / "good" / "collector_style.yaml", ENVIRON)
    tokens = {(listener.receiver, listener.protocol.endpoint): listener.token for listener in plan.listeners}
    assert tokens == {
        ("otlp", "127.0.0.1:4317"): None,
        ("otlp", "127.0.0.1:4318"): SECRET,
        ("otlp/local", "localhost:14318"): None,
    }
    assert SECRET not in repr(plan)


# ---------------------------------------------------------------------------------------------------------- settings


def test_a_project_s_settings_are_those_of_the_file_alone(monkeypatch: pytest.MonkeyPatch, certificates: Path) -> None:
    monkeypatch.setenv("LANGFUSE_SAMPLE_RATE", "0.1")
    monkeypatch.setenv("OTEL_LANGFUSE_MASK", "all")
    monkeypatch.setenv("LANGFUSE_TRACING_ENABLED", "false")
    project = to_langfuse(
        processor="release: '1.10'\nmask: [Email]\nkeep: 'app*, db'\nattribute_map: {persona: user.id}\njoin_timeout: 500ms\n"
        "media_inline_bytes: 1KiB\nmedia_upload: false\ntrace_link: https://x/{trace_id}",
        exporter="base_url: http://langfuse:3000\nexport_path: other/path\ntimeout: 2s\ncompression: none\nflush_at: 5\n"
        "flush_interval: 250ms\nrequest_bytes: 1MiB\nsending_queue: {queue_size: 8MiB}\nheaders: {X-Team: blue}\n"
        f"tls: {{ca_file: {certificates}/ca.pem}}",
    ).langfuse[0]
    settings = settings_of(project)
    assert settings.configured
    assert (settings.public_key, settings.secret_key) == (KEYS["LANGFUSE_PUBLIC_KEY"], KEYS["LANGFUSE_SECRET_KEY"])
    assert settings.endpoint == "http://langfuse:3000/other/path"
    assert (settings.timeout, settings.flush_at, settings.flush_interval) == (2.0, 5, 0.25)
    assert (settings.request_bytes, settings.queue_bytes, settings.media_inline_bytes) == (1 << 20, 8 << 20, 1024)
    assert (settings.compression, settings.sample_rate, settings.media_upload) == ("none", 1.0, False)
    assert (settings.mask, settings.keep, settings.drop) == (("email",), ("app*", "db"), ())
    assert (settings.headers, settings.attribute_map) == ({"X-Team": "blue"}, {"persona": "user.id"})
    assert (settings.release, settings.version, settings.environment) == ("1.10", None, None)
    assert (settings.trace_link, settings.join_timeout) == ("https://x/{trace_id}", 0.5)
    assert settings.ca_file == f"{certificates}/ca.pem"


# ------------------------------------------------------------------------------------------------------- JSON Schema


def test_the_published_schema_is_the_models_own() -> None:
    published = ROOT / "collector" / "otel-config.schema.json"
    remedy = "python -m otel_langfuse.sidecar.config > collector/otel-config.schema.json"
    assert published.read_text(encoding="utf-8") == json_schema_text(), remedy


@pytest.mark.parametrize("path", [BUILT_IN, *GOOD], ids=lambda path: path.stem)
def test_the_schema_takes_what_loads(path: Path) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "name",
    [
        *("key_unknown", "key_unknown_deep", "key_cors", "root_unknown_key", "type_unknown", "type_stock_processors"),
        *("value_kinds", "value_durations", "langfuse_keys_missing", "pipelines_parts_missing", "pipelines_missing"),
        *("key_log_level", "langfuse_exporter_values", "root_missing_sections", "processor_values"),
    ],
)
def test_the_schema_refuses_what_an_editor_can_see(name: str) -> None:
    document = yaml.safe_load((CONFIGS / "bad" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(document)
