"""
Sources whose key-encryption keys our commands may add and remove.

A key management service has commands of its own, and no process can change the environment of
another one.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from outbox.database_time import database_now
from outbox.encryption import key_file_writer
from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_database import KeyDatabase
from outbox.encryption.key_file import KeyFile
from outbox.encryption.key_ring import EncryptionKey, KeyRing
from outbox.encryption.key_tables import encryption_keys
from outbox.encryption.keys import KeyProvider
from outbox.encryption.sources import SETTING, file_path, is_database
from outbox.errors import ConfigurationError

_OF_A_VARIABLE = (
    f"{SETTING}: env: no command can change the environment of processes: add the key to a file"
    " with `relay keys rotate`, and put its document into the variable"
)
_OF_A_SERVICE = f"{SETTING}: python: the service behind it adds and removes its keys"


class ManagedKeys(Protocol):
    """Keys that can be added and removed."""

    def ring(self) -> KeyRing:
        """Return the keys."""
        ...

    def add(self, key: EncryptionKey) -> None:
        """Add *key*; raises ConfigurationError if the source refuses it, and KeysUnavailable."""
        ...

    def remove(self, key_id: str) -> None:
        """Remove a key for good; raises as `add`."""
        ...


class ManagedFile:
    """The keys in the file at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ring(self) -> KeyRing:
        return KeyFile(self._path, source=SETTING).ring

    def add(self, key: EncryptionKey) -> None:
        key_file_writer.change(self._path, lambda ring: ring.with_key(key), source=SETTING)

    def remove(self, key_id: str) -> None:
        key_file_writer.change(self._path, lambda ring: ring.without(key_id), source=SETTING)


class ManagedDatabase:
    """The keys in the key database of *connection*, whose user may insert and update them."""

    def __init__(self, connection: KeyConnection) -> None:
        self._connection = connection

    def ring(self) -> KeyRing:
        return KeyDatabase(self._connection, setting=SETTING).ring

    def add(self, key: EncryptionKey) -> None:
        values = {"id": key.id, "key": key.key, "active_from": key.active_from}

        def insert(connection: sa.Connection) -> None:
            into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
            # The statement is repeated if the connection is lost, and may have been carried out.
            connection.execute(into(encryption_keys).values(values).on_conflict_do_nothing())

        self._connection.run(insert)

    def remove(self, key_id: str) -> None:
        column = encryption_keys.c
        destroyed = (
            sa.update(encryption_keys)
            .where(column.id == key_id, column.key.is_not(None))
            .values(key=None, destroyed_at=database_now())
        )
        self._connection.run(lambda connection: connection.execute(destroyed))


def managed(text: str) -> ManagedKeys:
    """
    Return the keys of the source *text*, the value of MQ_ENCRYPTION_KEYS.

    Raises ConfigurationError if commands cannot change it.
    """
    scheme = text.partition(":")[0]
    if scheme == "file":
        return ManagedFile(file_path(text))
    if is_database(text):
        return ManagedDatabase(KeyConnection(text, setting=SETTING))
    raise ConfigurationError(_OF_A_VARIABLE if scheme == "env" else _OF_A_SERVICE)


def ring_of(provider: KeyProvider) -> KeyRing | None:
    """Return the keys of *provider*; None for a service, which does not show them."""
    if isinstance(provider, KeyFile | KeyDatabase):
        return provider.ring
    return provider if isinstance(provider, KeyRing) else None


def replaced_at(ring: KeyRing, key: EncryptionKey) -> datetime | None:
    """Return when another key of *ring* takes the place of *key*, or has; None if none does."""
    later = ring.keys[ring.keys.index(key) + 1 :]
    return later[0].active_from if later else None


CLOCKS_DIFFER = timedelta(minutes=5)
"""How far the clock of a producer may be behind: its first key is active for it as well."""
