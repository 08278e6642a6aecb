"""
The side file of a key database on SQLite, by which an erasure waits for batches.

    keys.db-batches   each batch has a shared lock on it before it reads keys, until its end
    keys.db-older     the file of the batches that began before an erasure has refused keys

The erasure moves the first to the second, so that later batches lock another file, and waits until
none has the second one locked. One that crashed leaves it, and the next erasure waits for it too.

The database itself is free meanwhile: a lock on it would keep handlers from making the key of a
new person, and other programs may change its journal mode. The kernel frees the locks of a process
that ends, and of no other.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_BUSY = {errno.EAGAIN, errno.EACCES}


class BatchFile:
    """The side file of the key database in the file *database*."""

    def __init__(self, database: str | Path) -> None:
        self._database = Path(database)
        self._current = Path(f"{database}-batches")
        self._older = Path(f"{database}-older")

    @property
    def name(self) -> str:
        """The name of the file, without its folder."""
        return self._current.name

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock of a batch, without waiting; raises OSError if the file has no locks."""
        file = self._shared()
        try:
            yield
        finally:
            os.close(file)

    def begin(self) -> bool:
        """
        Tell the batches that have begun apart from later ones; returns whether it could.

        It cannot while batches are left that an erasure before this one has to wait for. Only one
        erasure at a time may work on the file. Raises OSError.
        """
        if not self.is_free():
            return False
        with suppress(FileNotFoundError):
            self._current.rename(self._older)
        return True

    def is_free(self) -> bool:
        """Whether the batches that had begun have ended; raises OSError."""
        try:
            file = os.open(self._older, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._older.unlink()
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        return True

    def _shared(self) -> int:
        while True:
            file = self._opened()
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), self._current.stat()):
                    return file
            except OSError as error:
                # An erasure has moved the file between two of these calls.
                if error.errno not in _BUSY and not isinstance(error, FileNotFoundError):
                    os.close(file)
                    raise
            os.close(file)

    def _opened(self) -> int:
        try:
            return os.open(self._current, os.O_RDWR)
        except FileNotFoundError:
            file = os.open(self._current, os.O_RDWR | os.O_CREAT, 0o600)
        # As SQLite does for its side files: all users of the database share them.
        with suppress(PermissionError):
            os.fchmod(file, self._database.stat().st_mode & 0o666)
        return file
