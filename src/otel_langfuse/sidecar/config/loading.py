"""A file, or the built-in configuration, to the plan that runs.

Rules:

- All problems of a file are raised together, one line each. Warnings do not stop it; they are part of the plan.
- Nothing but the environment that is handed in is asked; no message holds the value of a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.components import components_of
from otel_langfuse.sidecar.config.document import read
from otel_langfuse.sidecar.config.plan import Plan
from otel_langfuse.sidecar.config.problems import Problems
from otel_langfuse.sidecar.config.resolve import resolve

__all__ = ["BUILT_IN", "load", "parse"]

BUILT_IN = Path(__file__).with_name("default.yaml")
"""The configuration without a file; the repository's ``otel-config.yaml`` is the same text."""

_MOST_BYTES = 1 << 20


def load(path: Path | None, environ: Mapping[str, str]) -> Plan:
    """The plan of a file.

    Args:
        path: The file; ``None`` for the built-in configuration.
        environ: The environment variables that ``${env:…}`` finds.

    Raises:
        ConfigError: The file cannot be read or used; one line for each problem.
    """
    if path is None:
        return parse(BUILT_IN.read_text(encoding="utf-8"), environ, "built-in configuration")
    source = path.name
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no usable name"
        message = f"{path} cannot be read: {reason}; name a file, or none for the built-in configuration"
        raise ConfigError(message, source=source) from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path} has more than {_MOST_BYTES} bytes; a configuration is smaller", source=source)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}:{line}: is no UTF-8 text; save the file as UTF-8", source=source) from None
    return parse(text, environ, source)


def parse(text: str, environ: Mapping[str, str], source: str) -> Plan:
    """The plan of a YAML text.

    Args:
        text: The configuration.
        environ: The environment variables that ``${env:…}`` finds.
        source: What messages call the text.

    Raises:
        ConfigError: The text cannot be used; one line for each problem, in the order of the text.
    """
    problems = Problems(source)
    root = read(text, environ, problems)
    if root is None or root.value is None:
        problems.error((), "is empty; start from otel-config.yaml of the project")
        problems.raise_found()
    assert root is not None
    parts = components_of(root, problems)
    plan = resolve(parts, problems)
    problems.raise_found()
    return plan
