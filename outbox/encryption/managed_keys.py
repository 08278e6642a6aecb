"""
Sources whose key-encryption keys our commands may add and remove.

A key management service has commands of its own, and no process can change the environment of
another one.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from outbox.encryption import key_file_writer
from outbox.encryption.key_file import KeyFile
from outbox.encryption.key_ring import EncryptionKey, KeyRing
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
        """Add *key*; raises ConfigurationError if the source cannot be changed."""
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


def managed(text: str) -> ManagedKeys:
    """
    Return the keys of the source *text*, the value of MQ_ENCRYPTION_KEYS.

    Raises ConfigurationError if commands cannot change it.
    """
    scheme = text.partition(":")[0]
    if scheme == "file":
        return ManagedFile(file_path(text))
    if is_database(text):
        raise ConfigurationError(f"{SETTING}: is a key database")
    raise ConfigurationError(_OF_A_VARIABLE if scheme == "env" else _OF_A_SERVICE)


def ring_of(provider: KeyProvider) -> KeyRing | None:
    """Return the keys of *provider*; None for a service, which does not show them."""
    if isinstance(provider, KeyFile):
        return provider.ring
    return provider if isinstance(provider, KeyRing) else None


def replaced_at(ring: KeyRing, key: EncryptionKey) -> datetime | None:
    """Return when another key of *ring* takes the place of *key*, or has; None if none does."""
    later = ring.keys[ring.keys.index(key) + 1 :]
    return later[0].active_from if later else None


CLOCKS_DIFFER = timedelta(minutes=5)
"""How far the clock of a producer may be behind: its first key is active for it as well."""
