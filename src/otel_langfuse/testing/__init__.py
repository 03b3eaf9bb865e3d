"""Stand-ins for the network and for time, for the tests of those who use this package.

``FakeLangfuse`` is an HTTP endpoint that checks and keeps spans and media and fails as it is told; ``OtlpSink`` takes OTLP
as Tempo or a Collector would; ``StubOpenAI`` answers model calls; ``ScriptedTransport`` replaces the network altogether;
``FakeClock`` moves when told.
"""

from otel_langfuse.testing.clock import FakeClock
from otel_langfuse.testing.fake_langfuse import (
    FakeLangfuse,
    Reply,
    SpanNode,
    accept_then_reset,
    hang,
    reset,
    slow_body,
    slow_headers,
)
from otel_langfuse.testing.fake_media import MediaLink
from otel_langfuse.testing.http_server import Received
from otel_langfuse.testing.otlp_sink import OtlpSink
from otel_langfuse.testing.stub_openai import StubOpenAI
from otel_langfuse.testing.transport import ScriptedTransport

__all__ = [
    "FakeClock",
    "FakeLangfuse",
    "MediaLink",
    "OtlpSink",
    "Received",
    "Reply",
    "ScriptedTransport",
    "SpanNode",
    "StubOpenAI",
    "accept_then_reset",
    "hang",
    "reset",
    "slow_body",
    "slow_headers",
]
