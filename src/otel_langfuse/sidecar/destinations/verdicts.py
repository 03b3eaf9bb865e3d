"""What an OTLP backend's answer means: one table for HTTP statuses and gRPC codes.

Rules:

- OTLP's specification decides, with two exceptions that lose less. It lets 408, 500 and other 5xx be dropped; they are
  retried here, as backends answer so while they restart. It lets RESOURCE_EXHAUSTED without a ``RetryInfo`` be dropped;
  that is how backends throttle, so it is retried, unless the text says that the message was too large: then it is split.
- The outcome is *unknown* when the request had left and no answer was seen, and for answers that something between here
  and the backend gives about a backend that may have stored the data. It is known when the backend itself refused.
- Redirects are failures and never followed: an address that moves has to be written down.
- A partial success is a success; what it rejects is lost, and sending it again would not help.

Sentences hold no header and no payload. What a server says is cut to one short line, and our own secrets in it are hidden.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_langfuse.langfuse.answers import location, retry_after
from otel_langfuse.langfuse.transport import Answer, TransportError
from otel_langfuse.otlp.answers import quote
from otel_langfuse.sidecar.destinations.payloads import amount
from otel_langfuse.sidecar.destinations.status_details import retry_delay, status_message
from otel_langfuse.sidecar.entry import Signal

__all__ = [
    "RULES",
    "Action",
    "Rule",
    "Sent",
    "Target",
    "Verdict",
    "judge_answer",
    "judge_call",
    "judge_response",
    "judge_silence",
]

Action = Literal["delivered", "retry", "split", "permanent"]


@dataclass(frozen=True, slots=True)
class Target:
    """What sentences may say about a destination, and what they must not.

    Attributes:
        name: The exporter's id.
        host: Host and port.
        secrets: Header values and the like, which never show.
    """

    name: str
    host: str
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def quote(self, text: str) -> str:
        """A server's words as one short line without our secrets; empty if nothing is left."""
        return quote(text, self.secrets)


@dataclass(frozen=True, slots=True)
class Sent:
    """What an answer is about."""

    signal: Signal
    items: int

    def __str__(self) -> str:
        return amount(self.signal, self.items)


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows from a status. ``{signal}`` in the sentence stands for traces or logs."""

    action: Action
    reason: str
    sentence: str
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a request.

    Attributes:
        action: What to do.
        reason: The drop reason, if the items are given up now or later for this.
        message: A sentence for people; empty when all went well.
        after: Seconds that the server asked to wait, or ``None``.
        ambiguous: Whether the items may have been stored although no success was seen.
        status: The HTTP status or gRPC code; empty when no answer came.
        rejected: Items that the server took the request without.
    """

    action: Action
    reason: str = ""
    message: str = ""
    after: float | None = None
    ambiguous: bool = False
    status: str = ""
    rejected: int = 0


_PATHS = "check the endpoint (gRPC is usually port 4317, HTTP port 4318)"
_NO_LOGS = "if it takes no {signal}, remove this exporter from the {signal} pipeline"
_TOO_LARGE = Rule("split", "too_large", "larger than it takes; raise its limit")
_COMPRESSION = Rule("permanent", "rejected", "it cannot read this compression; set compression: none")

RULES: Mapping[int | str, Rule] = {
    # HTTP
    400: Rule("permanent", "rejected", "it does not accept these {signal}"),
    401: Rule("permanent", "unauthorized", "it wants other credentials; check the exporter's headers"),
    403: Rule("permanent", "forbidden", "these credentials may not write there; check the exporter's headers"),
    404: Rule("permanent", "not_found", f"nothing takes {{signal}} there; {_PATHS}; {_NO_LOGS}"),
    405: Rule("permanent", "rejected", f"this path takes no POST; {_PATHS}"),
    407: Rule("permanent", "rejected", "the proxy wants a login; put user and password into HTTPS_PROXY"),
    408: Rule("retry", "expired", "it did not get the request in time", ambiguous=True),
    413: _TOO_LARGE,
    415: Rule("permanent", "rejected", "it takes no protobuf there, or not this compression; try compression: none"),
    429: Rule("retry", "expired", "it takes no more for now"),
    501: Rule("permanent", "unimplemented", f"it does not know this request; {_NO_LOGS}"),
    502: Rule("retry", "expired", "a proxy got no proper answer from it", ambiguous=True),
    504: Rule("retry", "expired", "a proxy got no answer from it in time", ambiguous=True),
    505: Rule("permanent", "rejected", "it does not take HTTP/1.1"),
    "2xx html": Rule("permanent", "not_otlp", f"a web page came back: something else answered; {_PATHS}"),
    "3xx": Rule("permanent", "redirect", "which is not followed; set the exporter's endpoint to the final address"),
    "4xx": Rule("permanent", "rejected", "the request was refused; see what stands between here and the backend"),
    "5xx": Rule("retry", "expired", "the backend, or a proxy in front of it, has trouble"),
    # gRPC
    "CANCELLED": Rule("retry", "expired", "the call was cancelled on the way", ambiguous=True),
    "UNKNOWN": Rule("permanent", "rejected", "it failed without saying how"),
    "INVALID_ARGUMENT": Rule("permanent", "rejected", "it does not accept these {signal}"),
    "DEADLINE_EXCEEDED": Rule("retry", "expired", "no answer in time; if it is only slow, raise timeout", ambiguous=True),
    "NOT_FOUND": Rule("permanent", "not_found", f"nothing takes {{signal}} there; {_PATHS}"),
    "ALREADY_EXISTS": Rule("permanent", "rejected", "it has them already"),
    "PERMISSION_DENIED": Rule("permanent", "forbidden", "these credentials may not write there; check the exporter's headers"),
    "RESOURCE_EXHAUSTED": Rule("retry", "expired", "it takes no more for now"),
    "FAILED_PRECONDITION": Rule("permanent", "rejected", "its state does not allow this"),
    "ABORTED": Rule("retry", "expired", "it gave up halfway and asks to try again"),
    "OUT_OF_RANGE": Rule("retry", "expired", "it asks to try again"),
    "UNIMPLEMENTED": Rule("permanent", "unimplemented", f"it takes no {{signal}} here; {_NO_LOGS}, or {_PATHS}"),
    "INTERNAL": Rule("permanent", "rejected", "it has an error of its own"),
    "UNAVAILABLE": Rule("retry", "expired", "it cannot take them now"),
    "DATA_LOSS": Rule("retry", "expired", "it may have lost them", ambiguous=True),
    "UNAUTHENTICATED": Rule("permanent", "unauthorized", "it wants other credentials; check the exporter's headers"),
    # No answer
    "unsent": Rule("retry", "expired", "no connection"),
    "broken": Rule("retry", "expired", "the connection broke before an answer came", ambiguous=True),
}

_SIZE_TEXT = re.compile(
    r"larger than max|exceeds (the )?max|(message|request|body)( length| body| size)? (is )?too large", re.IGNORECASE
)
_COMPRESSION_TEXT = re.compile(r"decompress|grpc-encoding|compression", re.IGNORECASE)
# What gRPC's own library says where no status came from the server.
_UNSENT_TEXT = re.compile(r"failed to connect|errors? resolving|DNS resolution failed|empty address list", re.IGNORECASE)
_BROKEN_TEXT = re.compile(
    r"Stream removed|RST_STREAM|recvmsg|sendmsg|Socket closed|Connection reset|Broken pipe|GOAWAY|Cancelling all calls"
    r"|Endpoint closing|Transport closed|keepalive|ping timeout|status: 50[24]",
    re.IGNORECASE,
)
_BREAKABLE = frozenset({"UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED"})


def judge_answer(answer: Answer, sent: Sent, target: Target, wall_clock: Callable[[], float] = time.time) -> Verdict:
    """The verdict on an HTTP answer."""
    status = answer.status
    kind = answer.headers.get("content-type", "").lower()
    if 200 <= status < 300 and "text/html" not in kind:
        return _delivered(*_partial_success(answer.body, kind, sent.signal), sent, target, str(status))
    rule = RULES.get(status) or RULES.get("2xx html" if status < 300 else f"{status // 100}xx") or RULES["4xx"]
    after = retry_after(answer.headers.get("retry-after", ""), wall_clock) if rule.action == "retry" else None
    said = ""
    if 300 <= status < 400:
        target_url = location(answer.headers.get("location", ""))
        said = f" with a redirect{' to ' if target_url else ''}{target_url}"
    elif "protobuf" in kind and (words := target.quote(status_message(answer.body))):
        said = f" ({words})"
    return _verdict(rule, f"{target.host} answered {status} for {sent}{said}", sent, target, after, str(status))


def judge_silence(error: TransportError, sent: Sent, target: Target) -> Verdict:
    """The verdict on a request over HTTP that got no answer; always a retry, the network may come back."""
    remedy = _REMEDIES.get(error.kind, "")
    message = f"{target.name}: no answer from {target.host} for {sent}: {error}{'; ' if remedy else ''}{remedy}."
    return Verdict("retry", "expired", message, ambiguous=error.sent)


def judge_call(
    code: str, details: str, sent: Sent, target: Target, trailers: Iterable[tuple[str, str | bytes]] = ()
) -> Verdict:
    """The verdict on a gRPC call that failed with ``code``, the name of a status."""
    words = target.quote(details)
    if code == "UNAVAILABLE" and _UNSENT_TEXT.search(details):
        message = f"{target.name}: no connection to {target.host} for {sent} ({words}){_connection_remedy(details)}."
        return Verdict("retry", "expired", message)
    rule = RULES.get(code, RULES["UNKNOWN"])
    if code in _BREAKABLE and _BROKEN_TEXT.search(details):
        rule = RULES["broken"]
    elif code in ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE") and _SIZE_TEXT.search(details):
        rule = _TOO_LARGE
    elif code in ("UNIMPLEMENTED", "INTERNAL") and _COMPRESSION_TEXT.search(details):
        rule = _COMPRESSION
    after = None
    if rule.action == "retry":
        status = dict(trailers).get("grpc-status-details-bin")
        after = retry_delay(status) if isinstance(status, bytes) else None
    said = f" ({words})" if words else ""
    return _verdict(rule, f"{target.host} answered {code} for {sent}{said}", sent, target, after, code)


def judge_response(response: bytes, sent: Sent, target: Target) -> Verdict:
    """The verdict on a gRPC call that succeeded."""
    return _delivered(*_partial_success(response, "protobuf", sent.signal), sent, target, "OK")


def _verdict(rule: Rule, start: str, sent: Sent, target: Target, after: float | None, status: str) -> Verdict:
    sentence = rule.sentence.replace("{signal}", sent.signal)
    message = f"{target.name}: {start}{', ' if status.startswith('3') else ': '}{sentence}."
    return Verdict(rule.action, rule.reason, message, after, rule.ambiguous, status)


def _delivered(rejected: int, words: str, sent: Sent, target: Target, status: str) -> Verdict:
    rejected = min(max(rejected, 0), sent.items)
    said = target.quote(words)
    message = ""
    if rejected:
        message = f"{target.name}: {target.host} took {sent} but rejected {rejected}{f' ({said})' if said else ''}."
    elif said:
        message = f"{target.name}: {target.host} took {sent} and warns: {said}."
    return Verdict("delivered", "rejected_by_destination", message, status=status, rejected=rejected)


def _partial_success(body: bytes, kind: str, signal: Signal) -> tuple[int, str]:
    """How many items a response rejects and its words; an unreadable one rejects nothing."""
    try:
        if "json" in kind:
            given = json.loads(body or b"{}").get("partialSuccess") or {}
            rejected = given.get("rejectedSpans" if signal is Signal.TRACES else "rejectedLogRecords") or 0
            return int(rejected), str(given.get("errorMessage") or "")
        if signal is Signal.TRACES:
            traces = ExportTraceServiceResponse.FromString(body).partial_success
            return traces.rejected_spans, traces.error_message
        logs = ExportLogsServiceResponse.FromString(body).partial_success
        return logs.rejected_log_records, logs.error_message
    except (DecodeError, ValueError, AttributeError, TypeError, RecursionError):
        return 0, ""


_REMEDIES = {
    "dns": "check the host in endpoint",
    "refused": "check host and port in endpoint",
    "connect_timeout": "check host and port in endpoint, and whether a proxy is needed (HTTPS_PROXY)",
    "timeout": "if it is only slow, raise timeout",
    "tls": "check tls.ca_file and tls.cert_file; if the server speaks plain text, write http:// in endpoint",
    "proxy": "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
}


def _connection_remedy(details: str) -> str:
    if "WRONG_VERSION_NUMBER" in details:
        return "; it speaks plain text: write http:// before the host in endpoint, or set tls: {insecure: true}"
    if "CERTIFICATE_VERIFY_FAILED" in details or "Peer name" in details or "Hostname" in details:
        return "; name the PEM file of its authority in tls.ca_file, or its name in tls.server_name_override"
    if "Handshake" in details or "handshake" in details:
        return "; the TLS handshake failed: without TLS at the server, write http:// before the host in endpoint"
    if "Socket closed" in details:
        return "; if it wants TLS, write https:// before the host in endpoint"
    if "HTTP/2" in details:
        return "; that is no gRPC port: OTLP over HTTP needs the otlp_http exporter, gRPC is usually at port 4317"
    return "; check host and port in endpoint"
