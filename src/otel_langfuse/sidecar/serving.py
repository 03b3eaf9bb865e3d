"""A small ASGI application on an address of its own, in a thread of its own."""

from __future__ import annotations

import threading

import uvicorn
from starlette.types import ASGIApp

from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.receivers.listening import bind, host_and_port

__all__ = ["AsgiServer"]

_PATIENCE = 10.0


class _Quiet(uvicorn.Server):
    """uvicorn that says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Begins to accept."""
        await super().startup(sockets)  # type: ignore[arg-type]
        self.ready.set()


class AsgiServer:
    """Serves ``app`` between ``start`` and ``stop``.

    Args:
        app: The application.
        endpoint: Host and port; port 0 takes a free one.
        key: Where the address stands in the configuration, for errors.
    """

    def __init__(self, app: ASGIApp, endpoint: str, key: str) -> None:
        self._endpoint = endpoint
        self._key = key
        self._port = 0
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, timeout_graceful_shutdown=1
        )
        self._server = _Quiet(config)
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host as configured and port as bound."""
        host, port = host_and_port(self._endpoint)
        return host, self._port or port

    def start(self) -> None:
        """Begins to listen; returns when requests are taken.

        Raises:
            ConfigError: The address cannot be used.
        """
        sockets = bind(self._endpoint, self._key)
        self._port = sockets[0].getsockname()[1]

        def run() -> None:
            try:
                self._server.run(sockets)
            finally:
                self._server.ready.set()
                for sock in sockets:
                    sock.close()

        self._thread = threading.Thread(target=run, name="otel-langfuse-admin", daemon=True)
        self._thread.start()
        if not self._server.ready.wait(_PATIENCE) or not self._server.started:
            self.stop()
            raise ConfigError(f"{self._key}: the listener did not start; the log says why", field=self._key)

    def stop(self) -> None:
        """Ends; idempotent."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(_PATIENCE)
