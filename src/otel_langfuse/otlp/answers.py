"""What the answer of an OTLP endpoint means for the copy that the application sends itself, and what to do about it.

The table is OTLP's own with one exception that loses less: 408, 500 and other 5xx are tried again, as backends answer so
while they restart. A partial success is a success; what it rejects is lost and counted. Redirects are never followed.
Sentences hold no header and no payload, and of what the server says one short line at the most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from otel_langfuse.langfuse.answers import Verdict, location, retry_after
from otel_langfuse.langfuse.transport import Answer, TransportError

__all__ = ["OtlpJudge", "quote"]

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
_PATHS = f"check {_ENDPOINT}: OTLP over HTTP is usually at port 4318, and spans go to /v1/traces there"
_QUOTE_LIMIT = 200
_LEAST_SECRET = 6

_UNKNOWN_OUTCOME = frozenset({408, 502, 504})
_CAUSES = {
    408: "it did not get the request in time",
    429: "it takes no more for now",
    501: f"it takes no spans; {_PATHS}",
    505: "it does not take HTTP/1.1",
}
_FINAL = {
    400: ("rejected", "it does not accept these spans"),
    401: ("unauthorized", f"it wants other credentials; check {_HEADERS}"),
    403: ("forbidden", f"these credentials may not write there; check {_HEADERS}"),
    404: ("not_found", f"nothing takes spans there; {_PATHS}"),
    405: ("rejected", f"this path takes no POST; {_PATHS}"),
    407: ("rejected", "the proxy wants a login; put user and password into HTTPS_PROXY"),
    415: ("rejected", "it takes no protobuf there, or not this compression; try OTEL_EXPORTER_OTLP_COMPRESSION=none"),
    501: ("rejected", _CAUSES[501]),
    505: ("rejected", _CAUSES[505]),
}
_REMEDIES = {
    "dns": f"check the host in {_ENDPOINT}",
    "refused": f"check host and port in {_ENDPOINT}",
    "connect_timeout": f"check host and port in {_ENDPOINT}, and whether a proxy is needed (HTTPS_PROXY)",
    "timeout": "if it is only slow, raise OTEL_EXPORTER_OTLP_TIMEOUT",
    "reset": f"{_PATHS}, gRPC at 4317 is something else",
    "tls": "for a certificate authority of your own name its PEM file in OTEL_EXPORTER_OTLP_CERTIFICATE; "
    f"if the server speaks plain text, write http:// in {_ENDPOINT}",
    "proxy": "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
}


@dataclass(frozen=True, slots=True)
class OtlpJudge:
    """Judges answers of one endpoint.

    Attributes:
        host: Host and port, for sentences.
        secrets: Header values, which never show.
    """

    host: str
    secrets: Sequence[str] = ()

    destination = "the OTLP endpoint"

    def __repr__(self) -> str:
        return f"OtlpJudge({self.host})"

    def answer(self, answer: Answer, *, spans: int, wall_clock: Callable[[], float] = time.time) -> Verdict:
        """The verdict on an answer to a request of ``spans`` spans."""
        status = answer.status
        kind = answer.headers.get("content-type", "").lower()
        start = f"{self.host} answered {status} for {_count(spans)}"
        if 200 <= status < 300:
            if "text/html" in kind:
                return Verdict(
                    "permanent", f"{start} with a web page: something else answered; {_PATHS}.", "not_otlp", status=status
                )
            return self._delivered(answer, kind, spans, start)
        if status == 413:
            return Verdict("split", f"{start}: larger than it takes; raise its limit.", "too_large", status=status)
        if status in _FINAL:
            reason, sentence = _FINAL[status]
            return Verdict("permanent", f"{start}: {sentence}.", reason, status=status)
        if status in (408, 429) or status >= 500:
            cause = _CAUSES.get(status, "the backend, or a proxy in front of it, has trouble")
            after = retry_after(answer.headers.get("retry-after", ""), wall_clock)
            return Verdict("retry", f"{start}; {cause}.", "expired", after, status in _UNKNOWN_OUTCOME, status)
        if 300 <= status < 400:
            target = location(answer.headers.get("location", ""))
            where = f" to {target}" if target else ""
            sentence = f"it redirects{where}, which is not followed; set {_ENDPOINT} to the final address"
            return Verdict("permanent", f"{start}: {sentence}.", "redirect", status=status)
        sentence = "the request was refused; see what stands between here and the backend"
        return Verdict("permanent", f"{start}: {sentence}.", "rejected", status=status)

    def silence(self, error: TransportError, *, spans: int) -> Verdict:
        """The verdict on a request that got no answer; always a retry, the network may come back."""
        remedy = _REMEDIES.get(error.kind, "")
        message = f"no answer from {self.host} for {_count(spans)}: {error}{'; ' if remedy else ''}{remedy}."
        return Verdict("retry", message, "expired", ambiguous=error.sent)

    def _delivered(self, answer: Answer, kind: str, spans: int, start: str) -> Verdict:
        if not answer.body:
            return Verdict("delivered", status=answer.status)
        rejected, words = _partial_success(answer.body, kind)
        rejected = min(max(rejected, 0), spans)
        said = quote(words, self.secrets)
        message = ""
        if rejected:
            message = f"{start} but rejected {rejected}{f' ({said})' if said else ''}; sending them again would not help."
        elif said:
            message = f"{start} and warns: {said}."
        return Verdict("delivered", message, "rejected_by_destination", status=answer.status, rejected=rejected)


def quote(text: str, secrets: Sequence[str]) -> str:
    """A server's words as one short line without our secrets; empty if nothing is left."""
    for secret in secrets:
        for part in {secret, *secret.split()}:
            if len(part) >= _LEAST_SECRET:
                text = text.replace(part, "[secret]")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _QUOTE_LIMIT else line[:_QUOTE_LIMIT] + "…"


def _partial_success(body: bytes, kind: str) -> tuple[int, str]:
    """How many spans a response rejects and its words; an unreadable one rejects nothing."""
    import json

    # A response with something in it is rare, and protobuf is slow to import.
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        if "json" in kind:
            given = json.loads(body).get("partialSuccess") or {}
            return int(given.get("rejectedSpans") or 0), str(given.get("errorMessage") or "")
        found = ExportTraceServiceResponse.FromString(body).partial_success
        return found.rejected_spans, found.error_message
    except (DecodeError, ValueError, AttributeError, TypeError, RecursionError):
        return 0, ""


def _count(spans: int) -> str:
    return "1 span" if spans == 1 else f"{spans} spans"
