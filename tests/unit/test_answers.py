"""What each answer means, and that the sentences help without giving anything away."""

from __future__ import annotations

import pytest

from otel_langfuse.langfuse.answers import TRACES_PATH, Endpoint, Verdict, judge, judge_error
from otel_langfuse.langfuse.transport import Answer, ErrorKind, TransportError

ENDPOINT = Endpoint.of(f"https://cloud.langfuse.com{TRACES_PATH}", public_key="pk-lf-1", secret_key="sk-lf-1")
WEB_PAGE = {"content-type": "text/html; charset=utf-8"}
# Sun, 06 Nov 1994 08:49:37 GMT
THEN = 784111777.0


def verdict(status: int, headers: dict[str, str] | None = None, *, spans: int = 12, body: bytes = b"") -> Verdict:
    answer = Answer(status, headers or {}, body)
    return judge(answer, spans=spans, endpoint=ENDPOINT, wall_clock=lambda: THEN)


@pytest.mark.parametrize("status", [200, 202, 204, 207])
def test_delivered(status: int) -> None:
    assert verdict(status, {"content-type": "application/json"}) == Verdict("delivered", status=status)


@pytest.mark.parametrize(
    ("status", "ambiguous"),
    [(408, True), (429, False), (500, False), (502, True), (503, False), (504, True), (520, False)],
)
def test_retried(status: int, ambiguous: bool) -> None:
    """A gateway's answer says nothing about the server behind it."""
    found = verdict(status, WEB_PAGE)
    assert (found.action, found.ambiguous, found.after, found.reason) == ("retry", ambiguous, None, "expired")


@pytest.mark.parametrize(
    ("value", "after"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Sun, 06 Nov 1994 08:50:07 GMT", 30.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after_in_both_forms(value: str, after: float | None) -> None:
    assert verdict(429, {"retry-after": value}).after == after
    assert verdict(503, {"retry-after": value}).after == after


def test_too_large_is_split() -> None:
    found = verdict(413, WEB_PAGE)
    assert (found.action, found.reason) == ("split", "too_large")
    assert "client_max_body_size" in found.message


def test_bad_request_isolates_the_bad_span() -> None:
    found = verdict(400, {"content-type": "application/json"}, body=b"who is Alice?")
    assert (found.action, found.reason) == ("isolate", "rejected")
    assert "Alice" not in found.message


def test_bad_request_with_a_web_page_is_about_the_request() -> None:
    """nginx answers so to plain HTTP on a TLS port; taking the batch apart would be a request per span for nothing."""
    found = verdict(400, WEB_PAGE)
    assert (found.action, found.reason) == ("permanent", "rejected")
    assert "scheme" in found.message


@pytest.mark.parametrize(
    ("status", "headers", "reason", "words"),
    [
        (301, {"location": "https://eu.test/x?token=1"}, "redirect", ["https://eu.test/x", "LANGFUSE_BASE_URL"]),
        (307, {}, "redirect", ["redirects,"]),
        (304, {"location": "http://[::1"}, "redirect", ["redirects,"]),
        (308, {"location": "/login"}, "redirect", ["to /login"]),
        (401, {}, "unauthorized", ["not known", "us.cloud.langfuse.com", "hipaa", "LANGFUSE_BASE_URL"]),
        (403, {}, "forbidden", ["organisation", "suspended"]),
        (404, WEB_PAGE, "not_found", ["LANGFUSE_BASE_URL", TRACES_PATH, "LANGFUSE_OTEL_TRACES_EXPORT_PATH"]),
        (405, {}, "rejected", ["no POST", TRACES_PATH]),
        (407, {}, "rejected", ["HTTPS_PROXY"]),
        (200, WEB_PAGE, "not_langfuse", ["something that is not Langfuse answered", "LANGFUSE_BASE_URL"]),
        (418, {}, "rejected", ["refused"]),
        (101, {}, "rejected", ["refused"]),
    ],
)
def test_permanent(status: int, headers: dict[str, str], reason: str, words: list[str]) -> None:
    found = verdict(status, headers)
    assert (found.action, found.reason, found.ambiguous) == ("permanent", reason, False)
    assert f"cloud.langfuse.com answered {status} for 12 spans" in found.message
    for word in words:
        assert word in found.message
    assert "token" not in found.message
    assert found.message.endswith(".")


@pytest.mark.parametrize(
    ("public_key", "secret_key", "named"),
    [
        ("sk-lf-1", "pk-lf-1", ["LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"]),
        ("pk-lf-1", "pk-lf-1", ["LANGFUSE_SECRET_KEY"]),
        ("", "sk-lf-1", ["LANGFUSE_PUBLIC_KEY"]),
    ],
)
def test_swapped_keys(public_key: str, secret_key: str, named: list[str]) -> None:
    endpoint = Endpoint.of("https://h.test/", public_key=public_key, secret_key=secret_key)
    message = judge(Answer(401), spans=1, endpoint=endpoint).message
    assert "swapped" in message
    assert "for 1 span:" in message
    assert [name for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY") if name in message] == named
    assert "lf-1" not in message
    assert "lf-1" not in repr(endpoint)


def test_location_cannot_forge_a_log_line() -> None:
    message = verdict(302, {"location": "https://u:p@h.test/a\r\nERROR\x1b[0m" + "x" * 999}).message
    assert "u:p" not in message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize(
    ("kind", "sent", "word"),
    [
        ("tls", False, "OTEL_LANGFUSE_CA_FILE"),
        ("tls", False, "SSL_CERT_FILE"),
        ("proxy", False, "HTTPS_PROXY"),
        ("dns", False, "LANGFUSE_BASE_URL"),
        ("refused", False, "LANGFUSE_BASE_URL"),
        ("connect_timeout", False, "LANGFUSE_BASE_URL"),
        ("timeout", True, "LANGFUSE_TIMEOUT"),
        ("reset", True, "broke"),
        ("other", False, "broke"),
    ],
)
def test_no_answer(kind: ErrorKind, sent: bool, word: str) -> None:
    """The outcome is unknown if, and only if, the whole request had left."""
    found = judge_error(TransportError(kind, "it broke", sent=sent), spans=3, endpoint=ENDPOINT)
    assert (found.action, found.ambiguous, found.status) == ("retry", sent, None)
    assert "for 3 spans" in found.message
    assert word in found.message


def test_endpoint_keeps_no_credentials_of_the_url() -> None:
    endpoint = Endpoint.of("https://user:pass@h.test:3000?x=1", public_key="pk-lf-", secret_key="sk-lf-")
    assert (endpoint.host, endpoint.path) == ("h.test:3000", "/")
