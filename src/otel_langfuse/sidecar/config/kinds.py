"""Which components there are, and what to use instead of those that a stock Collector has besides.

Data only. The Collector's other components belong into a Collector in front, except where the sidecar does the work
itself; a test holds that no name stands in both tables.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from otel_langfuse.sidecar.config.schema import (
    Admin,
    BearerTokenAuth,
    DebugExporter,
    JournalExtension,
    LangfuseExporter,
    LangfuseProcessor,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    OtlpReceiver,
)

__all__ = ["ALIASES", "INSTEAD", "INSTEAD_OF_KEYS", "IN_FRONT", "KINDS", "WORK_OF_THE_COLLECTOR"]

KINDS: Mapping[str, Mapping[str, type[BaseModel]]] = {
    "receivers": {"otlp": OtlpReceiver},
    "processors": {"langfuse": LangfuseProcessor},
    "exporters": {
        "langfuse": LangfuseExporter,
        "otlp_grpc": OtlpGrpcExporter,
        "otlp_http": OtlpHttpExporter,
        "debug": DebugExporter,
    },
    "extensions": {"admin": Admin, "journal": JournalExtension, "bearertokenauth": BearerTokenAuth},
}
"""By section and type, the model of a component."""

ALIASES: Mapping[str, Mapping[str, str]] = {"exporters": {"otlp": "otlp_grpc", "otlphttp": "otlp_http"}}
"""By section, the Collector's older names of types."""

WORK_OF_THE_COLLECTOR = "a stock Collector's work: put one in front, see collector/gateway.yaml"
IN_FRONT = f"that is {WORK_OF_THE_COLLECTOR}"

_SENDERS = "senders speak OTLP to the sidecar; put a stock Collector in front to translate, see collector/agent.yaml"
_METRICS = "metrics are a stock Collector's work: send them to one, not through the sidecar"
_BACKEND = "send OTLP with otlp_http or otlp_grpc, or let a stock Collector in front feed this backend"
_AUTH = "write headers on the exporter, and bearertokenauth on the receiver; anything else is a stock Collector's work in front"
_DELIVERY = "not needed, take it out: each exporter batches by itself (flush_at, flush_interval, request_bytes)"

INSTEAD: Mapping[str, Mapping[str, str]] = {
    "receivers": {
        **dict.fromkeys(("jaeger", "zipkin", "opencensus", "kafka", "filelog", "file_log", "syslog", "otelarrow"), _SENDERS),
        **dict.fromkeys(("prometheus", "hostmetrics", "host_metrics", "statsd", "kubeletstats", "docker_stats"), _METRICS),
    },
    "processors": {
        "batch": _DELIVERY,
        "memory_limiter": "not needed, take it out: queues (sending_queue.queue_size), the window (window_bytes) and the "
        "journal (max_bytes) are bounded",
        "redaction": "use mask of the langfuse processor, or a stock Collector in front",
        "probabilistic_sampler": "use sampling.percentage of an OTLP exporter, and sample_rate of the langfuse processor",
        "routing": "use routing of the langfuse processor",
        "groupbytrace": "not needed, take it out: the langfuse processor holds traces for its window",
        **dict.fromkeys(
            (
                *("tail_sampling", "transform", "filter", "attributes", "resource", "resourcedetection", "k8sattributes"),
                *("resource_detection", "k8s_attributes", "span", "cumulativetodelta", "metricstransform", "logdedup"),
            ),
            IN_FRONT,
        ),
    },
    "exporters": {
        "logging": "use debug, as the Collector does by now",
        "loadbalancing": IN_FRONT,
        "load_balancing": IN_FRONT,
        **dict.fromkeys(("prometheus", "prometheusremotewrite"), _METRICS),
        **dict.fromkeys(("file", "jaeger", "zipkin", "kafka", "loki", "datadog", "elasticsearch", "clickhouse"), _BACKEND),
    },
    "extensions": {
        "health_check": "use admin: its GET /api/instrumentation/health answers",
        "healthcheckv2": "use admin: its GET /api/instrumentation/health answers",
        "file_storage": "use journal with a directory",
        "zpages": "use admin: its GET /api/instrumentation/langfuse/status answers",
        "pprof": "take it out, admin has status and metrics",
        "memory_limiter": "not needed, take it out: all queues are bounded",
        **dict.fromkeys(("basicauth", "oidc", "oauth2client", "headers_setter", "asapclient", "sigv4auth"), _AUTH),
    },
    "connectors": {},
}
"""By section and type, what to do about a component that only a stock Collector has."""

_QUEUE = "the queue is bounded in bytes and always there"
_PACE = "take it out: a langfuse exporter chooses its pauses itself and heeds Retry-After; max_elapsed_time bounds them"
_CORS = "browsers send to a stock Collector in front, which knows CORS"
_PROXY = "set HTTPS_PROXY and NO_PROXY in the environment"

INSTEAD_OF_KEYS: Mapping[str, str] = {
    "cors": _CORS,
    "include_metadata": "take it out: headers of senders are not passed on; route by attribute",
    "storage": "take it out: the extension journal keeps what was acknowledged",
    "enabled": f"take it out: {_QUEUE}",
    "batch": _DELIVERY,
    "block_on_overflow": f"take it out: {_QUEUE}; a full one loses data of this destination only, counted",
    "wait_for_result": f"take it out: {_QUEUE}",
    **dict.fromkeys(("initial_interval", "max_interval", "multiplier", "randomization_factor"), _PACE),
    "num_consumers": "take it out: a langfuse exporter sends in order, one request at a time",
    "insecure_skip_verify": "name the certificate authority in ca_file",
    "min_version": "take it out: TLS 1.2 is the oldest that is spoken",
    "max_version": "take it out: the newest TLS that both sides know is spoken",
    "proxy_url": _PROXY,
    "auth": "write the Authorization line in headers",
    "authenticator": "it belongs below auth of a receiver's protocol",
    "encoding": "take it out: protobuf is sent",
    "metrics_endpoint": _METRICS,
    "metrics_url_path": _METRICS,
    "profiles_endpoint": "profiles are a stock Collector's work",
    "profiles_url_path": "profiles are a stock Collector's work",
    "transport": "take it out: TCP is used",
    "read_buffer_size": "take it out",
    "write_buffer_size": "take it out",
    "balancer_name": "take it out; balance with a stock Collector in front, see collector/gateway.yaml",
    "tokens": "write one token",
    "filename": "write token: ${file:/path/of/the/token}",
    "metrics": "take it out: the extension admin serves GET /metrics",
    "traces": "take it out: the sidecar does not trace itself",
    "sampling_initial": "take it out",
    "sampling_thereafter": "take it out",
}
"""By key, what to do about one that the Collector has at such a place and the sidecar has not."""
