"""
Keys, and events that they encrypt, for tests.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_ring import KeyRing, new_ring
from outbox.encryption.keys import WrappedKey
from outbox.encryption.subjects import SubjectKey
from outbox.errors import KeysUnavailable
from outbox.event import Event
from outbox.wire import codec, row_codec
from outbox.wire.codec import WireMessage

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def a_ring() -> KeyRing:
    """A ring of one key."""
    return new_ring(LONG_AGO)


class SubjectsInMemory:
    """The keys of subjects that a producer asks for."""

    def __init__(self) -> None:
        self.by_digest: dict[bytes, SubjectKey] = {}
        self.asked = 0

    def key_of(self, digest: bytes, /) -> SubjectKey:
        self.asked += 1
        return self.by_digest.setdefault(digest, SubjectKey(uuid4(), uuid4().bytes * 2))

    @property
    def ciphers(self) -> dict[UUID, AESGCM]:
        """The keys as a consumer has them."""
        return {key.id: AESGCM(key.key) for key in self.by_digest.values()}


class SourceOfKeys:
    """A source that counts its calls, and is unavailable while a test says so."""

    is_in_memory = True

    def __init__(self) -> None:
        self.ring = a_ring()
        self.is_available = True
        self.calls = 0

    def digest_key(self) -> bytes:
        return self.ring.digest_key()

    def wrap(self, key: bytes, /) -> WrappedKey:
        self._called()
        return self.ring.wrap(key)

    def unwrap(self, wrapped: WrappedKey, /) -> bytes:
        self._called()
        return self.ring.unwrap(wrapped)

    def _called(self) -> None:
        self.calls += 1
        if not self.is_available:
            raise KeysUnavailable("unreachable")


def encrypted_row(encryptor: Encryptor, event: Event, **options: Any) -> dict[str, Any]:
    """The row of *event*, encrypted, as the relay reads it."""
    row = encryptor.encrypted(
        row_codec.to_row(event), subject=event.subject, **{"compression": "none", **options}
    )
    return {**row, "exchange": None}


def encrypted_message(row: Mapping[str, Any], exchange: str = "main") -> WireMessage:
    """The message of an encrypted *row*."""
    return codec.to_wire(row_codec.from_row(row), exchange=exchange)
