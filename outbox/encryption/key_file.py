"""
Keys in a file that may be replaced while a process runs, as a mounted secret is.
"""

import time
from collections.abc import Callable
from pathlib import Path

from outbox.encryption import key_ring
from outbox.encryption.key_ring import KeyRing
from outbox.encryption.keys import UnknownKey, WrappedKey
from outbox.encryption.process_lock import ProcessLock
from outbox.errors import ConfigurationError

CHECK_SECONDS = 1.0
"""A changed file is noticed this much later; at once if a key is missing."""


class KeyFile:
    """
    The keys in the JSON document at *path*; *source* begins each error, and names the setting.

    A file that cannot be read, or has no keys any more, leaves the keys that were read before.
    Raises ConfigurationError if there are none.
    """

    is_in_memory = True

    def __init__(
        self, path: Path, *, source: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._source = source
        self._clock = clock
        self._lock = ProcessLock()
        self._version, self._ring = self._read()
        self._checked = clock()

    @property
    def ring(self) -> KeyRing:
        """The keys in the file."""
        if self._clock() - self._checked >= CHECK_SECONDS:
            self.refresh()
        return self._ring

    def refresh(self) -> None:
        """Read the file again, if it has changed."""
        with self._lock:
            self._checked = self._clock()
            try:
                if _version(self._path) != self._version:
                    self._version, self._ring = self._read()
            except (ConfigurationError, OSError):
                # It is being replaced, or its mount is gone; the next check reads it.
                return

    def digest_key(self) -> bytes:
        return self.ring.digest_key()

    def wrap(self, key: bytes, /) -> WrappedKey:
        return self.ring.wrap(key)

    def unwrap(self, wrapped: WrappedKey, /) -> bytes:
        try:
            return self.ring.unwrap(wrapped)
        except UnknownKey:
            self.refresh()
            return self._ring.unwrap(wrapped)

    def _read(self) -> tuple[object, KeyRing]:
        try:
            version = _version(self._path)
            text = self._path.read_bytes()
        except (OSError, ValueError) as error:  # a path may have a zero byte
            raise ConfigurationError(
                f"{self._source}: the file cannot be read ({type(error).__name__})"
            ) from None
        return version, key_ring.parse(text, source=self._source)


def _version(path: Path) -> object:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
