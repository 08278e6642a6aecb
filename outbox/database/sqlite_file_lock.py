"""
The lock that lets one process at a time work on a SQLite file.

The kernel holds it and releases it when the process ends, however it ends.
"""

import fcntl
import os
import weakref
from pathlib import Path


class FileLock:
    """
    An exclusive `flock` on the side file at *path*.

    It is held until `release` or `close`, and no longer than this object and its process live.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._closing: weakref.finalize[..., FileLock] | None = None
        self._held = False

    def acquire(self) -> bool:
        """
        Take the lock without waiting, and return whether this object holds it, now or already.

        Raises OSError if the side file cannot be opened, or its file system has no locks.
        """
        if self._held:
            return True
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            self._closing = weakref.finalize(self, os.close, self._file)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # The path may name another file by the next attempt.
            self.close()
            return False
        self._held = True
        return True

    def release(self) -> None:
        """Release the lock if it is held; the side file stays open for the next `acquire`."""
        if self._held and self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._held = False

    def close(self) -> None:
        """Release the lock if it is held, and close the side file."""
        self._held, self._file = False, None
        if self._closing is not None:
            self._closing()
            self._closing = None
