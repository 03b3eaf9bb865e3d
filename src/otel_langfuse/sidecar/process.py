"""The sidecar as a process: signals, log, exit codes.

SIGTERM and SIGINT drain and end with exit code 0; what could not be delivered in time stays in the journal. A second
signal ends at once.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from types import FrameType

from otel_langfuse.sidecar.app import Sidecar
from otel_langfuse.sidecar.config.plan import Plan

__all__ = ["run"]

logger = logging.getLogger("otel_langfuse")

_FORCED = 70
# Objects that are made before the cyclic collector looks at the youngest: spans that wait for their trace are many, live
# for a second, and are freed by their count. At 700, Python's own number, the look takes a tenth of the time. Not much
# more, for a failed HTTP request leaves some 60 objects in a cycle that holds its body: errors hold their frames.
_COLLECT_AFTER = 2_000


def run(plan: Plan) -> int:
    """Runs until a signal comes; returns the exit code.

    Raises:
        ConfigError: An address, a file or the journal cannot be used.
    """
    level = {"warn": "WARNING"}.get(plan.service.telemetry.logs.level, plan.service.telemetry.logs.level.upper())
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("uvicorn", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for warning in plan.warnings:
        logger.warning("%s", warning)
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if asked.is_set():
            os.write(2, b"otel-langfuse: second signal, ending at once; the journal keeps what was not delivered\n")
            os._exit(_FORCED)
        asked.set()

    sidecar = Sidecar(plan)
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        sidecar.start()
        _calm_collector()
        logger.info("otel-langfuse collector is up")
        asked.wait()
        logger.info("stopping: no new data, draining for %.0f s at most", plan.service.shutdown_timeout)
        drained = sidecar.stop()
        logger.info("stopped%s", "" if drained else "; not everything was delivered in time, see the lines above")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _calm_collector() -> None:
    """Lets the cyclic collector pass over what lives as long as the process, and look less often at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
