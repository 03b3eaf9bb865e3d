"""The journal's directory: made for its owner alone, used by one process, its damaged files set aside."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.journal.schema import FILE_NAME

__all__ = ["DirectoryLock", "make_private", "prepare", "put_back", "set_aside"]

_LOCK_NAME = "journal.lock"
_COMPANIONS = ("", "-wal", "-shm")
_FIELD = "journal.directory"


class DirectoryLock:
    """Holds a directory for this process until ``release`` or the process's end.

    Raises:
        ConfigError: Another process holds it, or the lock file cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        import fcntl  # Here, so that the rest can be imported where it is missing.

        path = directory / _LOCK_NAME
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(directory, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if isinstance(error, BlockingIOError):
                message = f"another sidecar uses the journal in {directory}: stop it, or give each its own journal.directory"
                raise ConfigError(message, field=_FIELD) from None
            raise _unusable(directory, error) from None

    def release(self) -> None:
        """Lets others use the directory. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def prepare(directory: Path) -> Path:
    """Makes the directory, for its owner alone if it is missing, and returns the path of the journal's file in it.

    Raises:
        ConfigError: It cannot be made, is no directory, or cannot be written to.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from None
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise _unusable(directory, PermissionError("this user may not write there"))
    return directory / FILE_NAME


def make_private(path: Path) -> None:
    """Sees to it that the journal's file exists and that nobody but its owner may read it or its companions.

    SQLite gives the companions that it makes the mode of the file.

    Raises:
        ConfigError: It cannot be made or its mode not be changed.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for companion in _companions(path):
            if companion.exists() and stat.S_IMODE(companion.stat().st_mode) != 0o600:
                companion.chmod(0o600)
    except OSError as error:
        raise _unusable(path.parent, error) from None


def set_aside(path: Path, now: float) -> Path:
    """Renames the journal's file and its companions to ``….damaged-<time>``, so that they still belong together.

    Raises:
        ConfigError: They cannot be renamed.
    """
    name = f"{path.name}.damaged-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
    target, number = path.with_name(name), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{name}.{number}")
    try:
        for old, new in zip(_companions(path), _companions(target), strict=True):
            if old.exists():
                old.rename(new)
    except OSError as error:
        raise _unusable(path.parent, error) from None
    return target


def put_back(aside: Path, path: Path) -> None:
    """Undoes ``set_aside``: what stands under the journal's name is deleted.

    Raises:
        OSError: A file cannot be deleted or renamed.
    """
    for unfinished, kept in zip(_companions(path), _companions(aside), strict=True):
        unfinished.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(unfinished)


def _companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]


def _unusable(directory: Path, error: OSError) -> ConfigError:
    cause = error.strerror or str(error)
    return ConfigError(
        f"the journal cannot be kept in {directory}: {cause}; name a directory that this user may write to",
        field=_FIELD,
    )
