"""The console entry ``otel-langfuse``: says what to install when the command line's packages are missing.

The commands are in ``commands``; this module imports nothing beyond the standard library, so that a bare
``pip install otel-langfuse`` has a command that explains itself.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_HINT = "otel-langfuse's command line needs click and rich: pip install 'otel-langfuse[cli]'"


def main() -> None:
    """Runs the command line; exits with 2 when click or rich is not installed."""
    try:
        import rich  # noqa: F401 -- only whether it is there

        from otel_langfuse.commands import group
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write(_HINT + "\n")
        raise SystemExit(2) from None
    group(prog_name="otel-langfuse")


if __name__ == "__main__":
    main()
