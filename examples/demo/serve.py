"""The demo application in a container: it serves on port 8000, and sends its spans wherever ``OTEL_…`` says.

    opentelemetry-instrument python serve.py

Without ``OPENAI_API_KEY`` a stub of the OpenAI API answers, in this process.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, suppress

import uvicorn

from otel_langfuse.testing import StubOpenAI


def main() -> None:
    """Serves until SIGTERM."""
    # Uvicorn ends gracefully on SIGTERM and then raises it again, which would skip all that runs at exit: the flush.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        stub = stack.enter_context(StubOpenAI())
        if not os.environ.get("OPENAI_API_KEY"):
            os.environ["OPENAI_API_KEY"] = "stub"
            os.environ["OPENAI_BASE_URL"] = stub.url
        os.environ["WEATHER_URL"] = f"{stub.root}/ping/weather"
        from otel_langfuse.demo.app import app  # it reads the variables above

        port = int(os.environ.get("DEMO_PORT", "8000"))
        with suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, host=os.environ.get("DEMO_HOST", "0.0.0.0"), port=port)).run()


if __name__ == "__main__":
    main()
