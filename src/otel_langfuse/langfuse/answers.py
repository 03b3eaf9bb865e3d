"""What an answer means: the one place where delivered, retryable and permanent are told apart.

Rules:

- 2xx is delivered, unless a web page came back: then it was not Langfuse that answered.
- 408, 429, 5xx and every failure without an answer are retried with the same bytes. The outcome is *unknown* when the
  whole request had left and no answer was seen, and for 408, 502 and 504, which a proxy gives about a server that may
  have stored the spans. It is known for 429, 503 and every other 5xx: nothing was stored.
- 413 splits the request. 400 means that one bad span cost the whole batch: it is isolated. A 400 with a web page comes
  from something in front of Langfuse and is about the request, not about a span.
- All else is permanent, with a sentence that says what happened, to how many spans, and what to change.

Sentences never hold keys, headers, payload or the answer's body; of a ``Location`` they keep scheme, host and path.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol
from urllib.parse import urlsplit

from otel_langfuse.langfuse.transport import Answer, TransportError

__all__ = [
    "TRACES_PATH",
    "Action",
    "Endpoint",
    "Judge",
    "LangfuseJudge",
    "Verdict",
    "judge",
    "judge_error",
    "location",
    "retry_after",
]

TRACES_PATH = "/api/public/otel/v1/traces"
"""Where Langfuse takes OTLP traces, below its site's root."""

Action = Literal["delivered", "retry", "split", "isolate", "permanent"]

_REGIONS = "cloud.langfuse.com (EU), us.cloud.langfuse.com, jp.cloud.langfuse.com, hipaa.cloud.langfuse.com"
_UNKNOWN_OUTCOME = frozenset({408, 502, 504})
_PATH_REMEDY = (
    f"LANGFUSE_BASE_URL must be the root of the Langfuse site and LANGFUSE_OTEL_TRACES_EXPORT_PATH, if set, the path "
    f"below it; spans go to {TRACES_PATH} there"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a sentence may say about the destination.

    Attributes:
        host: Host, with the port if it is not the scheme's own.
        path: Path of the traces endpoint.
        public_key_plausible: Whether the public key has Langfuse's form, ``pk-lf-…``.
        secret_key_plausible: Whether the secret key has Langfuse's form, ``sk-lf-…``.
    """

    host: str = "Langfuse"
    path: str = TRACES_PATH
    public_key_plausible: bool = True
    secret_key_plausible: bool = True

    @classmethod
    def of(cls, url: str, *, public_key: str, secret_key: str) -> Endpoint:
        """The endpoint behind ``url``; of the keys only their form is kept."""
        parts = urlsplit(url)
        return cls(
            host=parts.netloc.rpartition("@")[2],
            path=parts.path or "/",
            public_key_plausible=public_key.startswith("pk-lf-"),
            secret_key_plausible=secret_key.startswith("sk-lf-"),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a request.

    Attributes:
        action: What to do.
        message: A sentence for people; empty when delivered.
        reason: The drop reason, if the spans are given up now or later for this.
        after: Seconds that the server asked to wait, or ``None``.
        ambiguous: Whether the spans may have been stored although no success was seen.
        status: The HTTP status, or ``None`` when no answer came.
        rejected: Spans that the server refused although it took the request; lost for ``reason``.
    """

    action: Action
    message: str = ""
    reason: str = ""
    after: float | None = None
    ambiguous: bool = False
    status: int | None = None
    rejected: int = 0


class Judge(Protocol):
    """Says what answers of one destination mean."""

    @property
    def destination(self) -> str:
        """What sentences call it."""
        ...

    def answer(self, answer: Answer, *, spans: int, wall_clock: Callable[[], float]) -> Verdict:
        """The verdict on an answer to a request of ``spans`` spans."""
        ...

    def silence(self, error: TransportError, *, spans: int) -> Verdict:
        """The verdict on a request that got no answer."""
        ...


@dataclass(frozen=True, slots=True)
class LangfuseJudge:
    """Judges Langfuse's answers, by this module's rules."""

    endpoint: Endpoint

    destination = "Langfuse"

    def answer(self, answer: Answer, *, spans: int, wall_clock: Callable[[], float]) -> Verdict:
        """See `judge`."""
        return judge(answer, spans=spans, endpoint=self.endpoint, wall_clock=wall_clock)

    def silence(self, error: TransportError, *, spans: int) -> Verdict:
        """See `judge_error`."""
        return judge_error(error, spans=spans, endpoint=self.endpoint)


def judge(answer: Answer, *, spans: int, endpoint: Endpoint, wall_clock: Callable[[], float] = time.time) -> Verdict:
    """The verdict on an answer to a request of ``spans`` spans."""
    status = answer.status
    web_page = "text/html" in answer.headers.get("content-type", "").lower()
    start = f"{endpoint.host} answered {status} for {_count(spans)}"
    if 200 <= status < 300:
        if not web_page:
            return Verdict("delivered", status=status)
        message = f"{start} with a web page: something that is not Langfuse answered, a login page or a proxy perhaps"
        return Verdict("permanent", f"{message}; {_PATH_REMEDY}.", "not_langfuse", status=status)
    if status in (408, 429) or status >= 500:
        after = retry_after(answer.headers.get("retry-after", ""), wall_clock)
        return Verdict(
            "retry", f"{start}; {_RETRY_CAUSES.get(status, _SERVER_TROUBLE)}.", "expired", after,
            status in _UNKNOWN_OUTCOME, status,
        )  # fmt: skip
    if status == 413:
        message = f"{start}: larger than a proxy in front of it lets through; raise that limit"
        return Verdict("split", f"{message} (nginx: client_max_body_size).", "too_large", status=status)
    if status == 400 and not web_page:
        message = f"{start}: a span that it cannot read costs its whole batch, so the batch is taken apart"
        return Verdict("isolate", f"{message} and that span dropped.", "rejected", status=status)
    reason, sentence = _permanent(answer, endpoint)
    return Verdict("permanent", f"{start}: {sentence}.", reason, status=status)


def judge_error(error: TransportError, *, spans: int, endpoint: Endpoint) -> Verdict:
    """The verdict on a request that got no answer; always a retry, the network may come back."""
    remedy = _ERROR_REMEDIES.get(error.kind, "")
    message = f"no answer from {endpoint.host} for {_count(spans)}: {error}{'; ' if remedy else ''}{remedy}."
    return Verdict("retry", message, "expired", ambiguous=error.sent)


def _permanent(answer: Answer, endpoint: Endpoint) -> tuple[str, str]:
    """Drop reason and sentence of an answer that a resend cannot change."""
    status = answer.status
    if 300 <= status < 400:
        target = location(answer.headers.get("location", ""))
        where = f" to {target}" if target else ""
        return (
            "redirect",
            f"it redirects{where}, which is not followed; set LANGFUSE_BASE_URL to the final address, scheme and host",
        )
    if status == 401:
        return "unauthorized", _keys_sentence(endpoint)
    return _PERMANENT.get(status, ("rejected", "the request was refused; see what stands between here and Langfuse"))


_SERVER_TROUBLE = "the server, or a proxy in front of it, has trouble"
_RETRY_CAUSES = {
    408: "it did not get the request in time",
    429: "it takes no more requests for now",
}

_PERMANENT = {
    400: (
        "rejected",
        "a web page came back: something in front of Langfuse refused it; check scheme and port in LANGFUSE_BASE_URL",
    ),
    403: (
        "forbidden",
        "the keys may not write: use a project's keys, not an organisation's, and see if its ingestion is suspended",
    ),
    404: ("not_found", f"nothing takes spans there; {_PATH_REMEDY}"),
    405: ("rejected", f"this path takes no POST; {_PATH_REMEDY}"),
    407: ("rejected", "the proxy wants a login; put user and password into HTTPS_PROXY"),
}

_ERROR_REMEDIES = {
    "dns": "check the host in LANGFUSE_BASE_URL",
    "refused": "check host and port in LANGFUSE_BASE_URL, and whether a proxy is needed (HTTPS_PROXY)",
    "connect_timeout": "check host and port in LANGFUSE_BASE_URL, and whether a proxy is needed (HTTPS_PROXY)",
    "timeout": "if it is only slow, raise LANGFUSE_TIMEOUT",
    "tls": "for a certificate authority of your own name its PEM file in OTEL_LANGFUSE_CA_FILE or SSL_CERT_FILE",
    "proxy": "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
}


def _keys_sentence(endpoint: Endpoint) -> str:
    if endpoint.public_key_plausible and endpoint.secret_key_plausible:
        cause = "the keys are not known there"
    else:
        wrong = [
            f"{name} does not start with {prefix}"
            for name, prefix, plausible in (
                ("LANGFUSE_PUBLIC_KEY", "pk-lf-", endpoint.public_key_plausible),
                ("LANGFUSE_SECRET_KEY", "sk-lf-", endpoint.secret_key_plausible),
            )
            if not plausible
        ]
        cause = f"the keys are wrong or swapped ({' and '.join(wrong)})"
    return f"{cause}; a key pair works in one region only, {_REGIONS}: check that LANGFUSE_BASE_URL is the one of the keys"


def retry_after(value: str, wall_clock: Callable[[], float]) -> float | None:
    """Seconds from either form of ``Retry-After``; ``None`` if there is none that can be read."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - wall_clock(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def location(value: str) -> str:
    """Scheme, host and path; a query may hold a session, and control characters would forge log lines."""
    try:
        parts = urlsplit(value)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path
    except ValueError:
        return ""
    return "".join(c for c in shown if c.isprintable())[:200]


def _count(spans: int) -> str:
    return "1 span" if spans == 1 else f"{spans} spans"
