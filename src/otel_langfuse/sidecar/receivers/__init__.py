"""Where OTLP comes in: a gRPC and an HTTP listener in front of one ``Intake``.

Rules:

- A sender gets the answer that the OTLP specification asks for: success, partial success, "never again" (400,
  ``INVALID_ARGUMENT``) or "later" (429, 503, ``RESOURCE_EXHAUSTED`` with a delay, ``UNAVAILABLE``). Whatever was not
  foreseen is a "later", so that nothing is lost by it.
- Nothing that a client does costs more than the limits of its listener allow: bytes before and after decompression,
  nesting, time, connections.
- Answers, errors and log lines hold no content and no token.

Counters, each summed over all listeners:

==========================  ==========================================================================================
``grpc_requests``           Calls of a known gRPC method, whatever the answer.
``http_requests``           HTTP requests whose head was read, whatever the answer.
``unauthenticated``         Requests with a wrong token or none.
``unsupported_requests``    Requests with a wrong path, method, content type or compression, and connections to the gRPC
                            port that do not speak HTTP/2 or break its rules.
``bad_requests``            Bodies that are no OTLP: answered 400 or ``INVALID_ARGUMENT``.
``too_large``               Bodies over the limit, before or after decompression.
``incomplete_requests``     Requests whose sender left before all of it had come, or gave it up before it was taken.
``slow_clients``            Requests and connections that were ended because they took too long.
``requests_told_to_wait``   Requests answered "later" because the sidecar or its queues are full or shutting down.
``connections_refused``     Connections beyond ``max_connections``, or with over 100 HTTP requests sent ahead of the answers.
``receiver_errors``         Requests and connections that failed in a way that was not foreseen; the log says how.
==========================  ==========================================================================================
"""

from __future__ import annotations

from otel_langfuse.sidecar.receivers.otlp_grpc import GrpcReceiver
from otel_langfuse.sidecar.receivers.otlp_http import HttpReceiver

__all__ = ["GrpcReceiver", "HttpReceiver"]
