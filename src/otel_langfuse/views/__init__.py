"""The two roads into the canonical model: `sdk` for ReadableSpan, `otlp` for protobuf. Nothing else adapts spans."""
