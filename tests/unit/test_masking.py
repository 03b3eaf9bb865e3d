"""Masking: what is found, what is left alone, and that a failing mask never lets its text through."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.pipeline.masking import FAILED, Masker

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


def masker(*names: str, **keywords: Any) -> Masker:
    made = Masker.from_settings(names, **keywords)
    assert made is not None
    return made


def masked(text: str, *names: str) -> str:
    made = masker(*(names or ("all",)))
    once = made.mask_text(text, "input")
    assert made.mask_text(once, "input") == once
    return once


FOUND = [
    ("email", "bob@example.com", "[email]"),
    ("email", "to <bob.o+x@mail.example.co.uk>.", "to <[email]>."),
    ("email", "josé@exämple.de, a@b.io", "[email], [email]"),
    ("email", "邮箱bob@example.com", "[email]"),
    ("card", "4111 1111 1111 1111", "[card]"),
    ("card", "pay 4111-1111-1111-1111.", "pay [card]."),
    ("card", "4111111111111111", "[card]"),
    ("card", "amex 3782 822463 10005", "amex [card]"),
    ("card", "no. 12 4111 1111 1111 1111 12/26 123", "no. 12 [card] 12/26 123"),
    ("card", "4111 1111 1111 1111 5555 5555 5555 4444", "[card] [card]"),
    ("card", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "[card]"),
    ("card", "卡号4111111111111111。", "卡号[card]。"),
    ("card", "4222222222222", "[card]"),
    ("phone", "+49 151 23456789", "[phone]"),
    ("phone", "call +1 (212) 555-1234 now", "call [phone] now"),
    ("phone", "tel:+491512345678", "tel:[phone]"),
    ("phone", "+1.212.555.1234", "[phone]"),
    ("phone", "+1 212 555 1234 2024-01-02", "[phone] 2024-01-02"),
    ("phone", "(212) 555-1234 or 212-555-1234 or 212.555.1234", "[phone] or [phone] or [phone]"),
    ("phone", "1-800-555-0100", "1-800-555-0100"),
    ("phone", "1-800-555-2100", "[phone]"),
    ("phone", "06 12 34 56 78, 06.12.34.56.78", "[phone], [phone]"),
    ("phone", "030/1234567 und 0151 23456789", "[phone] und [phone]"),
    ("phone", "020 7946 0958", "[phone]"),
    ("phone", "電話+81312345678です", "電話[phone]です"),
    ("key", "sk-abcdefghijklmnopqrstuvwx", "[key]"),
    ("key", "OPENAI_API_KEY=sk-proj-Ab1_cd-2ef3gh4ij5", "OPENAI_API_KEY=[key]"),
    ("key", "sk-ant-api03-AbCdEfGh-1234", "[key]"),
    ("key", "pk-lf-1234-abcd sk-lf-00000000-0000-4000-8000-000000000000", "[key] [key]"),
    ("key", "ghp_" + "a1B2" * 9, "[key]"),
    ("key", "github_pat_" + "a1B2_" * 9, "[key]"),
    ("key", "AKIAIOSFODNN7EXAMPLE", "[key]"),
    ("key", "xoxb-123456789012-abcdefABCDEF", "[key]"),
    ("key", "AIza" + "Sy_-1" * 7, "[key]"),
    ("key", "hf_" + "aBcDe" * 6, "[key]"),
    ("key", JWT, "[key]"),
    ("key", f"token%3D{JWT}&x", "token%3D[key]&x"),
    ("key", "Authorization: Bearer abc123def", "Authorization: Bearer [key]"),
    ("key", f"Bearer {JWT}", "Bearer [key]"),
    ("key", "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "[key]"),
    ("iban", "DE89 3704 0044 0532 0130 00 IST MEIN", "[iban] IST MEIN"),
    ("iban", "GB29NWBK60161331926819 DE89370400440532013000", "[iban] [iban]"),
    ("iban", "fr14-2004-1010-0505-0001-3m02-606.", "[iban]."),
    ("ip", "10.0.0.1:8080 192.168.1.255/24", "[ip]:8080 [ip]/24"),
    ("ip", "fe80::1 2001:db8:0:0:0:0:2:1 ::1", "[ip] [ip] [ip]"),
    ("ip", "::ffff:10.0.0.1", "::ffff:[ip]"),
]


@pytest.mark.parametrize(("name", "text", "expected"), [row for row in FOUND if row[1] != row[2]])
def test_found(name: str, text: str, expected: str) -> None:
    assert masked(text, name) == expected


LEFT = [
    ("email", "a@b, @handle, bob@localhost, x @ y.com"),
    ("card", "4111 1111 1111 1112"),
    ("card", "41111111111111111111111"),
    ("card", "0.4111111111111111 4111111111111111.5"),
    ("card", "0000 0000 0000 0000"),
    ("card", "2024-01-02 2024-01-03"),
    ("phone", "1234567890 5551234567 00491512345678"),
    ("phone", "2024-01-02 2024-01-02T10:00:00+0200 01-02-2024 10:30"),
    ("phone", "+2024-01-02 10"),
    ("phone", "+1.23456789 -1.5 +12345678 3.14159265358979"),
    ("phone", "192.168.100.200 550e8400-e29b-41d4-a716-446655440000"),
    ("phone", "200 300 4000 1763764000000000000"),
    ("phone", "01 02 03 04 05 06"),
    ("phone", "id-212-555-1234-7 v1.212.555.1234 123-45-6789"),
    ("phone", "+123456789abc a+491512345678"),
    ("key", "task-force-2024-members risk-assessment sk-learn-based-classification"),
    ("key", "the bearer of bad news, bearer instruments"),
    ("key", "eyJust.a.word hf_model AKIA"),
    ("iban", "DE88 3704 0044 0532 0130 00"),
    ("iban", "XX12 3456 7890 1234 5678"),
    ("iban", "DE89370400440532013000X"),
    ("ip", "1.2.3 256.1.1.1 1.3.6.1.4.1.311 v1.2.3.4 1.2.3.4.5"),
    ("ip", "12:34:56 std::vector abc::def aa:bb:cc:dd:ee:ff ::"),
]


@pytest.mark.parametrize(("name", "text"), LEFT)
def test_left_alone(name: str, text: str) -> None:
    assert masked(text, name) == text


def test_all_together() -> None:
    text = "bob@example.com +49 151 23456789 4111111111111111 sk-lf-1234 DE89370400440532013000 10.0.0.1"
    assert masked(text) == "[email] [phone] [card] [key] [iban] [ip]"
    assert masked(text, " Email ", "CARD") == text.replace("bob@example.com", "[email]").replace("4" + "1" * 15, "[card]")


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        "\nbob@example.com",
        "\\nbob@example.com",
        "é4111111111111111é",
        "\t4111 1111 1111 1111\n",
        '"bob@example.com"',
        "C:\\bob@example.com",
        "/bob@example.com\u2028x",
        json.dumps({"to": "\nbob@example.com", "deep": json.dumps("\r\nbob@example.com\\")}),
        {"bob@example.com": ["+49 151 23456789", -4111111111111111, 4111111111111111, 0.4111111111111111]},
        [4111111111111111],
        [[4111111111111111, "x"], {"n": 4111111111111111}],
    ],
)
def test_json_stays_json(value: object, ascii_only: bool) -> None:
    for indent in (None, 2):
        got = masked(json.dumps(value, ensure_ascii=ascii_only, indent=indent))
        assert "example.com" not in got
        assert "4111111111111111" not in got.replace("0.4111111111111111", "")
        loaded = json.loads(got)
        if isinstance(value, str) and value.startswith("{"):
            inner = json.loads(loaded)
            assert inner["to"] == "\n[email]"
            assert json.loads(inner["deep"]) == "\r\n[email]\\"


def test_escape_before_a_match_is_not_cut() -> None:
    assert masked('"\\nbob@example.com"', "email") == '"\\n[email]"'
    assert masked('"\\u00e9bob@example.com"', "email") == '"\\u00e9[email]"'
    assert masked('[{"\\\\":4111111111111111}]') == '[{"\\\\":"[card]"}]'
    assert masked('{"a":-4111111111111111}') == '{"a":"[card]"}'
    assert masked('{"a":4111111111111111e5}') == '{"a":4111111111111111e5}'
    assert masked("[note] 4111111111111111") == "[note] [card]"
    assert masked("\x00bob@example.com\x00\\") == "\x00[email]\x00\\"


ADVERSARIAL = [
    "a" * 1_000_000,
    "a." * 500_000 + "@",
    "a@" * 500_000,
    "a@b." * 250_000,
    "a@" + "b." * 500_000 + "1",
    "1 " * 500_000,
    "4111 " * 200_000,
    "1" * 1_000_000,
    "0.1" * 330_000,
    "+" * 1_000_000,
    "+1 " * 333_000,
    "+1-(" * 250_000,
    "(0" * 500_000,
    "sk-" * 333_000,
    "sk-a" * 250_000,
    "sk-ant-" * 140_000,
    "eyJ" * 333_000,
    "-eyJ" * 250_000,
    "eyJaaaaa." * 110_000,
    "bearer " * 140_000,
    "bearer" + " " * 1_000_000,
    "de12" * 250_000,
    "DE12 " * 200_000,
    "1.1.1." * 160_000,
    "a:" * 500_000,
    "::" * 500_000,
    "\\" * 1_000_000,
    "\\u" * 500_000,
    '{"a":' + " " * 500_000 + "4111111111111111,",
    "[" * 500_000 + "4111111111111111",
    "%3D" * 333_000,
    "xoxb-" * 200_000,
    "-" * 1_000_000,
    "06 " * 333_000,
]


@pytest.mark.parametrize("text", ADVERSARIAL, ids=lambda text: repr(text[:8]))
def test_a_megabyte_of_anything_completes(text: str) -> None:
    assert masker("all").mask_text(text, "input") != FAILED


def test_nothing_to_mask() -> None:
    assert Masker.from_settings(()) is None
    assert Masker.from_settings(["", " "]) is None


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'emial' is no built-in mask \(did you mean 'email'\?\)") as caught:
        Masker.from_settings(["card", "emial"])
    assert caught.value.field == "mask"


def test_custom_callable_runs_first_and_the_rest_sees_its_result() -> None:
    calls = []

    def custom(value: Any, field: str) -> Any:
        calls.append((value, field))
        return value.replace("secret", "bob@example.com")

    assert masker("email", custom=custom).mask_text("a secret", "output") == "a [email]"
    assert masker(custom=custom).mask_text("a secret", "output") == "a bob@example.com"
    assert calls == [("a secret", "output")] * 2


def test_custom_result_that_is_no_string_is_written_as_json() -> None:
    assert masker(custom=lambda value, field: {"é": [1, None]}).mask_text("x", "input") == '{"é": [1, null]}'


def _raises(value: Any, field: str) -> Any:
    raise RuntimeError(value)


@pytest.mark.parametrize(
    "custom", [_raises, lambda value, field: object(), lambda value, field: float("nan"), lambda value: value]
)
def test_fails_closed_and_counts(custom: Any, caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    made = masker("email", custom=custom, counters=counters)
    with caplog.at_level(logging.WARNING, "otel_langfuse"):
        assert made.mask_text("hunter2", "input") == FAILED
        assert made.mask_text("hunter2", "output") == FAILED
    assert counters.counts == {"masking_failed": 2}
    assert len(caplog.messages) == 1
    assert "hunter2" not in caplog.text


def test_text_that_is_none_fails_closed() -> None:
    assert masker("email").mask_text(None, "input") == FAILED  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("patterns", "text", "expected"),
    [
        ({"ticket": r"TCK-\d+"}, "see TCK-12, TCK-3", "see [ticket], [ticket]"),
        ({"secret": r"(?i)secret\w*"}, "SECRET42 secret", "[secret] [secret]"),
        ({"word": r"\w+"}, "a b", "[word] [word]"),
        ({"everything": r"(?s).*"}, '{"a": "b\\n\\u0041"}\x00', "[everything]"),
        ({"a": "b", "b": "a"}, "ab [a] [b]", "[b][a] [a] [b]"),
        ({"pair": r"(\w)\1"}, "aab\\nccd", "[pair]b\\n[pair]d"),
        ({"open": r"\["}, "[x", "[open]x"),
    ],
)
def test_patterns(patterns: dict[str, str], text: str, expected: str) -> None:
    made = masker(patterns=patterns)
    assert made.mask_text(text, "input") == expected
    assert made.mask_text(expected, "input") == expected


@pytest.mark.parametrize("patterns", [{"x": "("}, {"a b": "x"}, {'"': "x"}, {"": "x"}])
def test_bad_pattern_is_refused(patterns: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Masker.from_settings((), patterns=patterns)


def test_masking_that_never_settles_fails_closed() -> None:
    # Each round shortens the run by one: there is no round after which nothing changes.
    made = masker(patterns={"x": r"(?<!q)q(?=q*$)"})
    assert made.mask_text("q" * 4, "input") != FAILED
    assert made.mask_text("q" * 50, "input") == FAILED
