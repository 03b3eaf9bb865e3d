"""A transport without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from otel_langfuse.langfuse.transport import Answer, TransportError

__all__ = ["ScriptedTransport"]

Step = Answer | TransportError | Callable[[bytes], Answer]


class ScriptedTransport:
    """Gives the answers of a script in order, then 200, and keeps the bodies.

    Args:
        script: Answers to give, errors to raise, or functions of the body that do either.

    Attributes:
        bodies: Every body that came, as it came.
        timeouts: The timeout of each.
    """

    def __init__(self, script: Iterable[Step] = ()) -> None:
        self._script = list(script)
        self._changed = threading.Condition()
        self.bodies: list[bytes] = []
        self.timeouts: list[float] = []

    def post(self, body: bytes, *, compressed: bool, timeout: float) -> Answer:
        """Plays the next step of the script."""
        with self._changed:
            self.bodies.append(body)
            self.timeouts.append(timeout)
            step = self._script.pop(0) if self._script else Answer(200)
            self._changed.notify_all()
        if isinstance(step, TransportError):
            raise step
        return step if isinstance(step, Answer) else step(body)

    def wait_for(self, requests: int, timeout: float = 10.0) -> bool:
        """Whether that many requests have come within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.bodies) >= requests, timeout)
