"""The models of ``otel-config.yaml``: the Collector's schema, as far as the sidecar knows it. Data only.

Component ids are ``type`` or ``type/name``. Names are the Collector's own where it has the thing; what it has not is
marked "ours" in its description. An unknown key is an error; ``sentences`` says so in one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from otel_langfuse.sidecar.config.values import Address, BaseUrl, Content, Duration, Names, Secret, Size, Target, Url

__all__ = [
    "Admin",
    "BearerTokenAuth",
    "ClientTls",
    "DebugExporter",
    "GrpcProtocol",
    "HttpProtocol",
    "JournalExtension",
    "LangfuseExporter",
    "LangfuseProcessor",
    "LangfuseQueue",
    "LangfuseRetry",
    "LangfuseTls",
    "OtlpGrpcExporter",
    "OtlpHttpExporter",
    "OtlpReceiver",
    "PipelineConfig",
    "Queue",
    "Retry",
    "Routing",
    "Sampling",
    "ServerTls",
    "Service",
]

MIB = 1 << 20
Percentage = Annotated[float, Field(ge=0, le=100)]
ShortDuration = Annotated[Duration, Field(le=2_000_000)]  # gRPC counts milliseconds in 32 bits


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


# ------------------------------------------------------------------------------------------------------------ shared


class ServerTls(_Model):
    """TLS of a listener; PEM files."""

    cert_file: str
    """The certificate, with its chain."""
    key_file: str
    """Its private key."""
    client_ca_file: str | None = None
    """Authorities of client certificates; set: every client must show one."""


class ClientTls(_Model):
    """TLS towards a destination; PEM files."""

    insecure: bool = False
    """Plain text (gRPC without TLS). Over HTTP the URL's scheme decides."""
    ca_file: str | None = None
    """Authorities to trust instead of the system's."""
    cert_file: str | None = None
    """Client certificate."""
    key_file: str | None = None
    """Its private key."""
    server_name_override: str | None = None
    """The name to expect in the server's certificate."""


class Authentication(_Model):
    """Who may send to a listener."""

    authenticator: str
    """Id of an extension, for example ``bearertokenauth``."""


class LangfuseQueue(_Model):
    """The queue in front of a Langfuse project."""

    queue_size: Size = 256 * MIB
    """Bytes it holds, on disk with a journal. Beyond, the newest data are dropped for this destination and counted."""
    sizer: Literal["bytes"] = "bytes"
    """Queues are bounded in bytes, nothing else."""


class Queue(LangfuseQueue):
    """The queue in front of an OTLP backend."""

    num_consumers: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests in flight at once."""


class LangfuseRetry(_Model):
    """What happens to a request that failed in a way that may pass."""

    enabled: bool = True
    max_elapsed_time: Duration = 600.0
    """Age of the first failure after which a request is dropped; 0: never, and that is the default with a journal
    directory, where the journal's max_age ends it."""


class Retry(LangfuseRetry):
    """What happens to a request that failed in a way that may pass, and when it is sent again."""

    initial_interval: Duration = 0.5
    max_interval: Duration = 30.0
    multiplier: Annotated[float, Field(ge=1, le=100)] = 2.0
    randomization_factor: Annotated[float, Field(ge=0, le=1)] = 0.5


class Sampling(_Model):
    """Ours: a share of the traces, chosen by trace id, the same at every destination with the same number."""

    percentage: Percentage = 100.0


# --------------------------------------------------------------------------------------------------------- receivers


class KeepaliveServer(_Model):
    """Limits on connections (gRPC)."""

    max_connection_idle: ShortDuration | None = None
    max_connection_age: ShortDuration | None = None
    max_connection_age_grace: ShortDuration | None = None
    time: ShortDuration = 7200.0
    timeout: ShortDuration = 20.0


class KeepaliveEnforcement(_Model):
    """What clients may do (gRPC)."""

    min_time: ShortDuration = 300.0
    permit_without_stream: bool = False


class Keepalive(_Model):
    """gRPC keep-alive."""

    server_parameters: KeepaliveServer = KeepaliveServer()
    enforcement_policy: KeepaliveEnforcement = KeepaliveEnforcement()


class GrpcProtocol(_Model):
    """OTLP over gRPC."""

    endpoint: Address = "127.0.0.1:4317"
    tls: ServerTls | None = None
    auth: Authentication | None = None
    max_recv_msg_size_mib: Annotated[int, Field(ge=1, le=1024)] = 16
    """Largest message, decompressed."""
    max_concurrent_streams: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Ours: connections at once; more are closed."""
    keepalive: Keepalive = Keepalive()


class HttpProtocol(_Model):
    """OTLP over HTTP, protobuf and JSON."""

    endpoint: Address = "127.0.0.1:4318"
    tls: ServerTls | None = None
    auth: Authentication | None = None
    max_request_body_size: Size = 20 * MIB
    """Largest body, before and after decompression."""
    traces_url_path: str = "/v1/traces"
    logs_url_path: str = "/v1/logs"
    read_timeout: Duration = 30.0
    """Ours: time for a whole request to arrive."""
    idle_timeout: Duration = 60.0
    """Time that an idle connection stays open."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Ours: connections at once; more are answered 503."""


class Protocols(_Model):
    """Which listeners there are; a key without a value means its defaults."""

    grpc: GrpcProtocol | None = None
    http: HttpProtocol | None = None


class OtlpReceiver(_Model):
    """Receiver ``otlp``."""

    protocols: Protocols
    """``grpc:`` and ``http:``, each with its keys or without for the defaults."""


# -------------------------------------------------------------------------------------------------------- processors


class Routing(_Model):
    """Ours: which Langfuse exporter gets a span."""

    attribute: str
    """Span or resource attribute that decides; the span's own wins."""
    routes: dict[str, str]
    """Value of the attribute → id of a ``langfuse`` exporter."""
    default: str | None = None
    """Exporter of spans without a route; without it they are dropped and counted (``no_route``)."""


class LangfuseProcessor(_Model):
    """Processor ``langfuse`` (ours): mapping, trace window, masking. Keys are those of the settings table."""

    window: Duration = 10.0
    """Longest time that a span waits for its parent, and one without content for its log record."""
    settle: Duration = 1.0
    """Time without a new span after which a trace whose spans have all their parents is written."""
    window_bytes: Size = 128 * MIB
    """Bytes of spans that wait; beyond, the oldest are written at once."""
    environment: str | None = None
    release: str | None = None
    version: str | None = None
    sample_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    capture_content: bool = True
    keep: Names = ()
    drop: Names = ()
    mask: Names = ()
    attribute_map: dict[str, str] = Field(default_factory=dict)
    trace_link: str | None = None
    join_timeout: Duration = 10.0
    media_upload: bool = True
    media_inline_bytes: Size = 65_536
    routing: Routing | None = None


# --------------------------------------------------------------------------------------------------------- exporters


class LangfuseTls(_Model):
    """TLS towards Langfuse; the base URL's scheme decides whether there is any."""

    ca_file: str | None = None
    """PEM file with the authorities to trust instead of the system's."""


class LangfuseExporter(_Model):
    """Exporter ``langfuse`` (ours): one project."""

    base_url: BaseUrl = "https://cloud.langfuse.com"
    public_key: str
    """The project's public key, ``pk-lf-…``."""
    secret_key: Secret
    """The project's secret key, ``sk-lf-…``; best from the environment or a mounted file."""
    export_path: str = "/api/public/otel/v1/traces"
    timeout: Duration = 5.0
    compression: Literal["auto", "gzip", "none"] = "auto"
    headers: dict[str, Secret] = Field(default_factory=dict)
    tls: LangfuseTls = LangfuseTls()
    flush_at: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    flush_interval: Duration = 1.0
    request_bytes: Size = 4 * MIB
    sending_queue: LangfuseQueue = LangfuseQueue()
    retry_on_failure: LangfuseRetry = LangfuseRetry()


class _OtlpExporter(_Model):
    tls: ClientTls = ClientTls()
    headers: dict[str, Secret] = Field(default_factory=dict)
    compression: Literal["gzip", "none"] = "gzip"
    timeout: Duration = 5.0
    sending_queue: Queue = Queue()
    retry_on_failure: Retry = Retry()
    sampling: Sampling = Sampling()
    content: Content = "keep"
    """Ours: what becomes of prompts, answers and tool values in this copy."""


class OtlpGrpcExporter(_OtlpExporter):
    """Exporter ``otlp_grpc`` (alias ``otlp``)."""

    endpoint: Target
    """Host and port, or a URL whose scheme decides on TLS."""


class OtlpHttpExporter(_OtlpExporter):
    """Exporter ``otlp_http`` (alias ``otlphttp``)."""

    # A query may hold a token.
    endpoint: Url | None = Field(default=None, repr=False)
    """Base URL; ``/v1/traces`` and ``/v1/logs`` are added."""
    traces_endpoint: Url | None = Field(default=None, repr=False)
    """Whole URL for traces."""
    logs_endpoint: Url | None = Field(default=None, repr=False)
    """Whole URL for log records."""


class DebugExporter(_Model):
    """Exporter ``debug``: one line per request to stderr, never content."""

    verbosity: Literal["basic", "normal", "detailed"] = "basic"


# -------------------------------------------------------------------------------------------------------- extensions


class Admin(_Model):
    """Extension ``admin`` (ours): health, status, flush, metrics."""

    endpoint: Address = "127.0.0.1:13133"
    key: Secret | None = None
    """Bearer key of status and flush; without it both answer 403."""


class JournalExtension(_Model):
    """Extension ``journal`` (ours): what was acknowledged survives a crash."""

    directory: str | None = None
    """Folder of the SQLite file; without it everything is held in memory."""
    max_bytes: Size = 1024 * MIB
    """Size at which new data are refused."""
    max_age: Duration = 24 * 3600.0
    """Age at which what could not be delivered is dropped and counted."""
    fsync: bool = True
    """Whether a commit waits for the disk; off: survives a crash of the process, not of the machine."""


class BearerTokenAuth(_Model):
    """Extension ``bearertokenauth``: the token that senders must show."""

    token: Secret
    scheme: str = "Bearer"


# ----------------------------------------------------------------------------------------------------------- service


class PipelineConfig(_Model):
    """From receivers through processors to exporters, by id."""

    receivers: Annotated[tuple[str, ...], Field(min_length=1)]
    """Where data come in, like ``[otlp]``."""
    processors: tuple[str, ...] = ()
    """``[langfuse]`` towards Langfuse, nothing towards other backends."""
    exporters: Annotated[tuple[str, ...], Field(min_length=1)]
    """Where they go, like ``[langfuse]``."""


class TelemetryLogs(_Model):
    """The sidecar's own log."""

    level: Literal["debug", "info", "warn", "error"] = "info"


class Telemetry(_Model):
    """What the sidecar says of itself; its metrics are at the admin extension."""

    logs: TelemetryLogs = TelemetryLogs()


class Service(_Model):
    """What runs."""

    extensions: tuple[str, ...] = ()
    """The extensions that run, like ``[admin, journal]``."""
    pipelines: dict[str, PipelineConfig]
    """By signal, like ``traces`` or ``logs/name``: receivers, processors, exporters."""
    telemetry: Telemetry = Telemetry()
    shutdown_timeout: Duration = 10.0
    """Ours: time to drain after SIGTERM."""
