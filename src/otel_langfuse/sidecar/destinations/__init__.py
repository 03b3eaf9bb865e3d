"""Where entries go: OTLP backends, the debug log, and Langfuse."""

from otel_langfuse.sidecar.destinations.building import destination_of
from otel_langfuse.sidecar.destinations.otlp import OtlpDestination

__all__ = ["OtlpDestination", "destination_of"]
