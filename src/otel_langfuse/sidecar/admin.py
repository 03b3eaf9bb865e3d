"""The admin listener: health, status, flush, metrics. Apart from the receivers, and on loopback unless told otherwise.

``GET /api/instrumentation/health`` and ``GET /metrics`` are public; ``GET …/langfuse/status`` and ``POST …/langfuse/flush``
want the admin key as a bearer token. Answers hold counts, names and last errors; no content, no keys.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_langfuse.sidecar.metrics import CONTENT_TYPE, exposition

__all__ = ["Administered", "admin_app"]

_FLUSH_TIMEOUT = 30.0


class Administered(Protocol):
    """What can be looked after."""

    @property
    def health(self) -> str:
        """``ok``, ``refusing`` or ``stopping``."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Counts and queues."""
        ...

    def flush(self, timeout: float) -> Mapping[str, bool]:
        """By destination, whether everything was delivered or dropped in time."""
        ...


def admin_app(sidecar: Administered, key: str | None) -> Starlette:
    """The ASGI application.

    Args:
        sidecar: What it looks after.
        key: The bearer key of status and flush; without one both answer 403.
    """

    def refusal(request: Request) -> Response | None:
        if key is None:
            return JSONResponse({"error": "no admin key is configured: set extensions.admin.key"}, 403)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), key.encode()):
            headers = {"www-authenticate": "Bearer"}
            return JSONResponse({"error": "the admin key is missing or wrong"}, 401, headers)
        return None

    async def health(_: Request) -> Response:
        # Full is no reason to be started again: what is in the journal goes on being delivered.
        return JSONResponse({"status": sidecar.health}, 503 if sidecar.health == "stopping" else 200)

    async def status(request: Request) -> Response:
        return refusal(request) or JSONResponse(await run_in_threadpool(sidecar.status))

    async def flush(request: Request) -> Response:
        refused = refusal(request)
        if refused is not None:
            return refused
        done = await run_in_threadpool(sidecar.flush, _FLUSH_TIMEOUT)
        return JSONResponse({"flushed": all(done.values()), "destinations": dict(done)})

    async def metrics(_: Request) -> Response:
        text = exposition(await run_in_threadpool(sidecar.status))
        return Response(text, headers={"content-type": CONTENT_TYPE})

    return Starlette(
        routes=[
            Route("/api/instrumentation/health", health),
            Route("/api/instrumentation/langfuse/status", status),
            Route("/api/instrumentation/langfuse/flush", flush, methods=["POST"]),
            Route("/metrics", metrics),
        ]
    )
