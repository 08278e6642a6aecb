"""
A key database as the source of keys of a producer or a consumer.
"""

import time
from collections.abc import Callable
from contextlib import suppress

import sqlalchemy as sa

from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_ring import EncryptionKey, KeyRing
from outbox.encryption.key_tables import VERSION, encryption_keys, key_store
from outbox.encryption.keys import KeysUnavailable, UnknownKey, WrappedKey
from outbox.encryption.process_lock import ProcessLock
from outbox.errors import ConfigurationError

CHECK_SECONDS = 5.0
"""A new key is noticed this much later; one that a message names and that is missing, sooner."""
SOONEST_SECONDS = 1.0
"""Unknown ids ask the database at most this often."""


class KeyDatabase:
    """
    The keys in the database of *connection*; *setting* begins each error.

    While the database is unavailable, the keys that were read before are used. Raises
    ConfigurationError and KeysUnavailable.
    """

    def __init__(
        self,
        connection: KeyConnection,
        *,
        setting: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._setting = setting
        self._clock = clock
        self._lock = ProcessLock()
        self._ring = self._read()
        self._read_at = clock()

    @property
    def ring(self) -> KeyRing:
        """The keys in the database."""
        self.refresh(CHECK_SECONDS)
        return self._ring

    def refresh(self, older_than_seconds: float = 0.0) -> None:
        """Read the keys again, if they were read longer ago than *older_than_seconds*."""
        with self._lock:
            now = self._clock()
            if now - self._read_at >= older_than_seconds:
                self._read_at = now
                with suppress(KeysUnavailable):
                    self._ring = self._read()

    def close(self) -> None:
        """Close the connection; a call that needs it makes another one."""
        self._connection.close()

    def digest_key(self) -> bytes:
        return self._ring.digest_key()

    def wrap(self, key: bytes, /) -> WrappedKey:
        return self.ring.wrap(key)

    def unwrap(self, wrapped: WrappedKey, /) -> bytes:
        try:
            return self._ring.unwrap(wrapped)
        except UnknownKey:
            self.refresh(SOONEST_SECONDS)
            return self._ring.unwrap(wrapped)

    def _read(self) -> KeyRing:
        version, digest_key, keys = self._connection.run(_read)
        if version != VERSION:
            raise ConfigurationError(
                f"{self._setting}: the tables of keys have another version than this program"
            )
        if digest_key is None or not keys:
            raise ConfigurationError(
                f"{self._setting}: the database has no encryption keys: run `relay keys init`"
            )
        return KeyRing(keys, digest_key)


def _read(connection: sa.Connection) -> tuple[int | None, bytes | None, list[EncryptionKey]]:
    store = connection.execute(sa.select(key_store.c.version, key_store.c.digest_key)).first()
    version, digest_key = (None, None) if store is None else store
    column = encryption_keys.c
    rows = connection.execute(
        sa.select(column.id, column.key, column.active_from).where(column.key.is_not(None))
    )
    return (
        version,
        None if digest_key is None else bytes(digest_key),
        [EncryptionKey(id_, bytes(key), active_from) for id_, key, active_from in rows],
    )
