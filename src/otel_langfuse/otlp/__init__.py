"""OTLP for any backend: the encoder, the rules for content, and the way over HTTP. Shared by the SDK side and the sidecar."""
