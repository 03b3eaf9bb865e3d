"""Settings: where a value comes from, what happens to a bad one, and that no secret shows."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_langfuse.errors import ConfigError
from otel_langfuse.settings import Settings

KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-hidden"}
ENV_NAMES = [name for field in dataclasses.fields(Settings) for name in field.metadata["env"]]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "otel_langfuse")
    return caplog


def test_defaults() -> None:
    got = Settings.resolve({})
    assert got == Settings()
    assert (got.enabled, got.base_url, got.flush_at, got.flush_interval) == (True, "https://cloud.langfuse.com", 512, 1)
    assert (got.queue_bytes, got.request_bytes, got.compression) == (256 << 20, 4 << 20, "auto")
    assert (got.mask, got.keep, got.drop, got.headers) == ((), (), (), {})
    assert got.endpoint == "https://cloud.langfuse.com/api/public/otel/v1/traces"
    assert not got.configured


def test_keyword_beats_langfuse_beats_otel_beats_default(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.pem", tmp_path / "theirs.pem"
    ours.touch()
    theirs.touch()
    environ = {"OTEL_LANGFUSE_CA_FILE": str(ours), "SSL_CERT_FILE": str(theirs), "LANGFUSE_TRACING_ENABLED": "true"}
    environ |= {"OTEL_SDK_DISABLED": "true", "LANGFUSE_BASE_URL": "http://a", "LANGFUSE_HOST": "http://b"}
    got = Settings.resolve(environ)
    assert (got.ca_file, got.enabled, got.base_url) == (str(ours), True, "http://a")
    got = Settings.resolve(environ, ca_file=theirs, enabled=False, base_url="http://c", flush_at=7)
    assert (got.ca_file, got.enabled, got.base_url, got.flush_at) == (str(theirs), False, "http://c", 7)


def test_none_and_empty_mean_not_given() -> None:
    got = Settings.resolve({"LANGFUSE_PUBLIC_KEY": "", "LANGFUSE_FLUSH_AT": "  "}, secret_key=None, flush_at=None)
    assert got == Settings()


def test_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGFUSE_RELEASE", "r-7")
    assert Settings.resolve().release == "r-7"


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("LANGFUSE_TRACING_ENABLED", "OFF", "enabled", False),
        ("LANGFUSE_ENABLED", "0", "enabled", False),
        ("OTEL_SDK_DISABLED", "TRUE", "enabled", False),
        ("OTEL_SDK_DISABLED", "yes", "enabled", True),
        ("LANGFUSE_DEBUG", "Yes", "debug", True),
        ("LANGFUSE_BASE_URL", " https://lf.example.com:8443/sub/ ", "base_url", "https://lf.example.com:8443/sub"),
        ("LANGFUSE_HOST", "http://localhost:3000", "base_url", "http://localhost:3000"),
        ("LANGFUSE_OTEL_TRACES_EXPORT_PATH", "v1/traces", "export_path", "/v1/traces"),
        ("LANGFUSE_SAMPLE_RATE", "0.25", "sample_rate", 0.25),
        ("LANGFUSE_TIMEOUT", "10", "timeout", 10.0),
        ("OTEL_LANGFUSE_QUEUE_BYTES", "64MiB", "queue_bytes", 64 << 20),
        ("OTEL_LANGFUSE_QUEUE_BYTES", "64M", "queue_bytes", 64 << 20),
        ("OTEL_LANGFUSE_QUEUE_BYTES", "1.5 GiB", "queue_bytes", 3 << 29),
        ("OTEL_LANGFUSE_QUEUE_BYTES", "4096", "queue_bytes", 4096),
        ("OTEL_LANGFUSE_MASK", "Email, CARD,,", "mask", ("email", "card")),
        ("OTEL_LANGFUSE_KEEP", "my.*, other", "keep", ("my.*", "other")),
        ("OTEL_LANGFUSE_HEADERS", "X-A=1%2C2, x-b=c%3Dd,", "headers", {"X-A": "1,2", "x-b": "c=d"}),
        ("OTEL_LANGFUSE_TRACE_LINK", "https://g/{trace_id}", "trace_link", "https://g/{trace_id}"),
        ("OTEL_LANGFUSE_COMPRESSION", "GZIP", "compression", "gzip"),
        ("OTEL_LANGFUSE_VERSION", "2", "version", "2"),
    ],
)
def test_environment_values(name: str, value: str, field: str, expected: object) -> None:
    assert getattr(Settings.resolve({name: value}, strict=True), field) == expected


BAD = [
    ("LANGFUSE_TRACING_ENABLED", "flase", "enabled", "did you mean 'false'?"),
    ("LANGFUSE_BASE_URL", "cloud.langfuse.com", "base_url", "not an http:// or https:// URL"),
    ("LANGFUSE_BASE_URL", "http://", "base_url", "with a host"),
    ("LANGFUSE_BASE_URL", "http://[::1", "base_url", "with a host"),
    ("LANGFUSE_BASE_URL", "http://h:99999", "base_url", "with a host"),
    ("LANGFUSE_BASE_URL", '"http://quoted"', "base_url", "with a host"),
    ("LANGFUSE_BASE_URL", "http://h/?x=1", "base_url", "query"),
    ("OTEL_LANGFUSE_CAPTURE_CONTENT", "flase", "capture_content", "did you mean 'false'?"),
    ("LANGFUSE_OTEL_TRACES_EXPORT_PATH", "http://h/v1", "export_path", "not a path"),
    ("LANGFUSE_FLUSH_AT", "many", "flush_at", "not a whole number"),
    ("LANGFUSE_FLUSH_AT", "0", "flush_at", "out of range"),
    ("LANGFUSE_FLUSH_AT", "9" * 5000, "flush_at", "not a whole number"),
    ("LANGFUSE_TIMEOUT", "nan", "timeout", "out of range"),
    ("LANGFUSE_TIMEOUT", "5s", "timeout", "not a number"),
    ("LANGFUSE_SAMPLE_RATE", "1.5", "sample_rate", "it must be 0 to 1"),
    ("OTEL_LANGFUSE_QUEUE_BYTES", "64 gallons", "queue_bytes", "64MiB"),
    ("OTEL_LANGFUSE_QUEUE_BYTES", "0", "queue_bytes", "out of range"),
    ("OTEL_LANGFUSE_CA_FILE", "/no/such/file.pem", "ca_file", "not an existing file"),
    ("OTEL_LANGFUSE_TRACE_LINK", "https://g/{traceid}", "trace_link", "{trace_id}"),
    ("OTEL_LANGFUSE_COMPRESSION", "gzipp", "compression", "did you mean 'gzip'?"),
    ("OTEL_LANGFUSE_HEADERS", "nothing", "headers", "name=value"),
    ("OTEL_LANGFUSE_HEADERS", "a b=1", "headers", "forbidden characters"),
    ("OTEL_LANGFUSE_HEADERS", "a=1%0D%0AEvil: 1", "headers", "control"),
    ("LANGFUSE_PUBLIC_KEY", "pk\nlf", "public_key", "control"),
    ("LANGFUSE_PUBLIC_KEY", "pk\udc80", "public_key", "undecodable"),
]


@pytest.mark.parametrize(("name", "value", "field", "words"), BAD)
def test_bad_value_warns_once_and_falls_back(
    warned: pytest.LogCaptureFixture, name: str, value: str, field: str, words: str
) -> None:
    unreadable = {"base_url": "", "capture_content": False}
    assert Settings.resolve({name: value}) == Settings(**({field: unreadable[field]} if field in unreadable else {}))  # type: ignore[arg-type]
    (message,) = warned.messages
    assert field in message
    assert name in message
    assert words in message
    assert ("until that is mended" if field in unreadable else "using the default") in message


def test_an_address_that_cannot_be_read_sends_nothing() -> None:
    """The default is somebody else's server."""
    got = Settings.resolve({"LANGFUSE_BASE_URL": "nope", "LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1"})
    assert not got.configured
    assert got.problem is None


@pytest.mark.parametrize(("name", "value", "field", "words"), BAD)
def test_bad_value_raises_when_strict(name: str, value: str, field: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.resolve({name: value}, strict=True)
    assert (caught.value.field, caught.value.source) == (field, name)
    assert words in str(caught.value)


def test_bad_value_falls_to_the_next_source(warned: pytest.LogCaptureFixture) -> None:
    got = Settings.resolve({"LANGFUSE_BASE_URL": "nope", "LANGFUSE_HOST": "http://b"}, base_url="neither")
    assert got.base_url == "http://b"
    (message,) = warned.messages
    assert "keyword" in message
    assert "got 'nope'" in message
    assert message.endswith("using http://b from LANGFUSE_HOST.")


def test_bad_keyword(warned: pytest.LogCaptureFixture) -> None:
    assert Settings.resolve({}, flush_at=[], keep=3, enabled="maybe", headers={"a": 1}) == Settings()
    assert len(warned.messages) == 4
    with pytest.raises(ConfigError) as caught:
        Settings.resolve({}, strict=True, timeout=True)
    assert (caught.value.field, caught.value.source) == ("timeout", "keyword")


def test_keywords_in_their_own_type() -> None:
    got = Settings.resolve({}, keep=["a*"], headers={"X-A": "1"}, queue_bytes=5, timeout=2, mask=("EMAIL",), debug=1)
    assert (got.keep, got.headers, got.queue_bytes, got.timeout, got.mask, got.debug) == (
        ("a*",),
        {"X-A": "1"},
        5,
        2.0,
        ("email",),
        True,
    )


@pytest.mark.parametrize("strict", [False, True])
def test_unknown_keyword(strict: bool) -> None:
    with pytest.raises(TypeError, match=r"'flush_att' is no setting \(did you mean 'flush_at'\?\)"):
        Settings.resolve({}, strict=strict, flush_att=1)


@pytest.mark.parametrize("suffix", ["/api/public/otel", "/api/public/otel/", "/api/public/otel/v1/traces"])
def test_otlp_address_is_cut_with_a_warning(warned: pytest.LogCaptureFixture, suffix: str) -> None:
    got = Settings.resolve({"LANGFUSE_HOST": "https://lf.example.com/sub" + suffix})
    assert got.endpoint == "https://lf.example.com/sub/api/public/otel/v1/traces"
    (message,) = warned.messages
    assert "base_url from LANGFUSE_HOST is the OTLP address" in message


def test_secrets_never_show(warned: pytest.LogCaptureFixture) -> None:
    environ = KEYS | {"OTEL_LANGFUSE_HEADERS": "X-Token=hidden"}
    got = Settings.resolve(environ, public_key="sk-lf-hidden-too")
    assert "hidden" not in repr(got)
    assert "X-Token" in repr(got)
    assert "base_url='https://cloud.langfuse.com'" in repr(got)
    bad = {"LANGFUSE_SECRET_KEY": "sk-lf-\nhidden", "OTEL_LANGFUSE_HEADERS": "hidden"}
    bad |= {"LANGFUSE_BASE_URL": "https://me:hidden@h", "LANGFUSE_TRACING_ENABLED": "sk-lf-hidden"}
    Settings.resolve(bad)
    for name, value in bad.items():
        with pytest.raises(ConfigError) as caught:
            Settings.resolve({name: value}, strict=True)
        assert "hidden" not in str(caught.value)
    assert "hidden" not in warned.text


@pytest.mark.parametrize(
    ("environ", "start"),
    [
        ({}, "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not set: nothing is sent"),
        ({"LANGFUSE_PUBLIC_KEY": "pk-lf-1"}, "LANGFUSE_PUBLIC_KEY is set but LANGFUSE_SECRET_KEY is not: nothing is"),
        ({"LANGFUSE_SECRET_KEY": "sk-lf-1"}, "LANGFUSE_SECRET_KEY is set but LANGFUSE_PUBLIC_KEY is not: nothing is"),
    ],
)
def test_problem(environ: dict[str, str], start: str) -> None:
    got = Settings.resolve(environ)
    assert not got.configured
    assert got.problem is not None
    assert got.problem.startswith(start)
    assert got.problem.endswith("Set both, or LANGFUSE_TRACING_ENABLED=false to silence this.")
    assert Settings.resolve(environ, enabled=False).problem is None


def test_swapped_keys_warn_only(warned: pytest.LogCaptureFixture) -> None:
    got = Settings.resolve(KEYS)
    assert got.configured
    assert got.problem is None
    assert not warned.messages
    got = Settings.resolve({}, public_key="sk-lf-hidden", secret_key="pk-lf-1")
    assert got.configured
    assert got.problem is None
    (message,) = warned.messages
    assert "look swapped" in message
    assert "hidden" not in message
    assert not Settings.resolve(KEYS | {"LANGFUSE_TRACING_ENABLED": "no"}).configured


def test_host_and_gzip() -> None:
    assert Settings(base_url="https://lf.example.com:8443/x").host == "lf.example.com:8443"
    assert Settings(base_url="https://lf.example.com").gzip
    for url in ("http://localhost:3000", "http://127.0.0.1", "http://[::1]:3000"):
        assert not Settings(base_url=url).gzip
        assert Settings(base_url=url, compression="gzip").gzip
    assert not Settings(compression="none").gzip


def test_frozen_hashable_picklable() -> None:
    got = Settings.resolve(KEYS, headers={"a": "b"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.debug = True  # type: ignore[misc]
    assert not hasattr(got, "__dict__")
    assert hash(got) == hash(Settings.resolve(KEYS, headers={"a": "b"}))
    assert pickle.loads(pickle.dumps(got)) == got


def test_table_has_a_row_for_every_setting() -> None:
    table = Settings.table().splitlines()
    assert table[0] == "| Setting | Environment | Default | Meaning |"
    assert [row.split("`")[1] for row in table[2:]] == [field.name for field in dataclasses.fields(Settings)]
    assert any(row.startswith("| `queue_bytes` | `OTEL_LANGFUSE_QUEUE_BYTES` | `256MiB` |") for row in table)
    assert len(ENV_NAMES) == len(set(ENV_NAMES))
    for field in dataclasses.fields(Settings):
        default = field.metadata["default"]
        if default != "not set":
            assert getattr(Settings.resolve({}, strict=True, **{field.name: default}), field.name) == field.default


def test_readme_has_the_table() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    _, begin, rest = readme.partition("<!-- settings:begin -->")
    if not begin:
        pytest.skip("the README has no settings table")
    assert rest.partition("<!-- settings:end -->")[0].strip() == Settings.table()


def test_module_prints_the_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "otel_langfuse.settings"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == Settings.table() + "\n"


_values = st.text(max_size=30) | st.sampled_from(
    [
        "http://[",
        "http://h:x",
        "1e999",
        "-1",
        "٣",
        "%ff=%00",
        "a=b,=c",
        "\x00",
        "\udc80",
        "/api/public/otel",
        "{trace_id}",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(ENV_NAMES), _values))
def test_resolve_never_raises_for_any_environment(environ: dict[str, str]) -> None:
    got = Settings.resolve(environ)
    assert isinstance(repr(got), str)
    assert got.problem is None or not got.configured
    assert isinstance(got.gzip, bool)
    if not got.base_url:
        return  # an address was given that cannot be read
    assert got.endpoint.startswith("http")
    # What was accepted once is accepted again, unchanged.
    same = {field.name: getattr(got, field.name) for field in dataclasses.fields(got)}
    assert Settings.resolve({}, strict=True, **same) == got
