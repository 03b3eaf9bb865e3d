"""The sidecar: OTLP in from any language, Langfuse and any OTLP backend out."""
