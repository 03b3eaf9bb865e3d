"""Names for tables and plots, free of dependencies: plots are drawn in an environment without OpenTelemetry."""

SIZES = {512: "0.5 KiB", 4096: "4 KiB", 65_536: "64 KiB"}
TITLES = {
    "sdk": "SDK alone",
    "otlp": "OTLP HTTP exporter",
    "fanout_http": "two exporters: OTLP HTTP + OTLP HTTP gzip",
    "fanout_grpc": "two exporters: OTLP gRPC + OTLP HTTP gzip",
    "langfuse": "Langfuse SDK, every span",
    "langfuse_filtered": "Langfuse SDK, its own filter (chat spans only)",
    "ours": "otel-langfuse",
    "ours_unlinked": "otel-langfuse, without the link on spans",
    "ours_fanout": "otel-langfuse, both copies from one queue",
    "ours_both": "otel-langfuse + OTLP HTTP exporter",
    "ours_env": "the same two, by environment variables",
}
