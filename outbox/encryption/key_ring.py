"""
Keys in memory, as a JSON document has them:

    {
      "digest_key": "<32 bytes, base64>",
      "keys": [
        {"id": "2026-12", "key": "<32 bytes, base64>", "active_from": "2026-12-01T00:00:00Z"}
      ]
    }

The current key is the one with the latest `active_from` that has passed. A key that is distributed
before its time lets every consumer have it before the first producer uses it.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox.encryption.associated_data import of_wrapped_key
from outbox.encryption.body_format import KEY_BYTES, MAX_KEY_ID_BYTES, NONCE_BYTES
from outbox.encryption.digests import DIGEST_KEY_BYTES
from outbox.encryption.keys import UnknownKey, WrappedKey, WrongKey
from outbox.errors import ConfigurationError

_KEY_ID = re.compile(rf"[A-Za-z0-9_.:/-]{{1,{MAX_KEY_ID_BYTES}}}")
Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A key-encryption key that is current from *active_from* on, until another one is."""

    id: str
    key: bytes = field(repr=False)
    active_from: datetime


class KeyRing:
    """Keys in memory; *clock* returns the time."""

    is_in_memory = True

    def __init__(
        self, keys: Iterable[EncryptionKey], digest_key: bytes, *, clock: Clock = _now
    ) -> None:
        self.keys = tuple(sorted(keys, key=lambda key: (key.active_from, key.id)))
        self._ciphers = {key.id: AESGCM(key.key) for key in self.keys}
        self._digest_key = digest_key
        self._clock = clock

    @property
    def current(self) -> EncryptionKey:
        """The key that encrypts now; raises ConfigurationError if the time of none has come."""
        now = self._clock()
        for key in reversed(self.keys):
            if key.active_from <= now:
                return key
        raise ConfigurationError("MQ_ENCRYPTION_KEYS: no key is active yet (see active_from)")

    def digest_key(self) -> bytes:
        return self._digest_key

    def wrap(self, key: bytes, /) -> WrappedKey:
        id_, nonce = self.current.id, os.urandom(NONCE_BYTES)
        sealed = self._ciphers[id_].encrypt(nonce, key, of_wrapped_key(id_))
        return WrappedKey(id_, nonce + sealed)

    def unwrap(self, wrapped: WrappedKey, /) -> bytes:
        cipher = self._ciphers.get(wrapped.key_id)
        if cipher is None:
            raise UnknownKey
        nonce, sealed = wrapped.wrapped[:NONCE_BYTES], wrapped.wrapped[NONCE_BYTES:]
        try:
            return cipher.decrypt(nonce, sealed, of_wrapped_key(wrapped.key_id))
        except (InvalidTag, ValueError):
            raise WrongKey from None

    def with_key(self, key: EncryptionKey) -> "KeyRing":
        """Return a ring that has *key* too."""
        return KeyRing((*self.keys, key), self._digest_key, clock=self._clock)

    def without(self, key_id: str) -> "KeyRing":
        """Return a ring that does not have the key *key_id*."""
        kept = [key for key in self.keys if key.id != key_id]
        return KeyRing(kept, self._digest_key, clock=self._clock)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document, which holds the keys in clear."""
        return {
            "digest_key": base64.b64encode(self._digest_key).decode(),
            "keys": [
                {
                    "id": key.id,
                    "key": base64.b64encode(key.key).decode(),
                    "active_from": key.active_from.isoformat(),
                }
                for key in self.keys
            ],
        }


def new_key(active_from: datetime) -> EncryptionKey:
    """Return a random key, whose id is its time and 4 random bytes."""
    moment = active_from.astimezone(UTC)
    return EncryptionKey(
        f"{moment:%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}", os.urandom(KEY_BYTES), moment
    )


def new_ring(active_from: datetime) -> KeyRing:
    """Return a ring with one random key, and a random digest key."""
    return KeyRing([new_key(active_from)], os.urandom(DIGEST_KEY_BYTES))


def parse(text: str | bytes, *, source: str, clock: Clock = _now) -> KeyRing:
    """
    Return the keys in a JSON document.

    Raises ConfigurationError, which begins with *source* and names the member, never its value.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{source}: is no JSON document") from None
    if not isinstance(document, Mapping) or not isinstance(document.get("keys"), list):
        raise ConfigurationError(f"{source}: must be an object with digest_key and keys")
    digest_key = _bytes(document, "digest_key", f"{source}: digest_key")
    keys = [
        _key(entry, f"{source}: keys[{number}]") for number, entry in enumerate(document["keys"])
    ]
    if not keys:
        raise ConfigurationError(f"{source}: keys: must have at least one key")
    if len({key.id for key in keys}) != len(keys):
        raise ConfigurationError(f"{source}: keys: two keys have the same id")
    return KeyRing(keys, digest_key, clock=clock)


def _key(entry: Any, place: str) -> EncryptionKey:
    if not isinstance(entry, Mapping):
        raise ConfigurationError(f"{place}: must be an object with id, key and active_from")
    id_ = entry.get("id")
    if not isinstance(id_, str) or _KEY_ID.fullmatch(id_) is None:
        raise ConfigurationError(
            f"{place}.id: must be 1 to {MAX_KEY_ID_BYTES} letters, digits and _.:/-"
        )
    try:
        active_from = datetime.fromisoformat(entry["active_from"])
    except (KeyError, TypeError, ValueError):
        active_from = None
    if active_from is None or active_from.tzinfo is None:
        raise ConfigurationError(f"{place}.active_from: must be a time with a time zone")
    return EncryptionKey(id_, _bytes(entry, "key", f"{place}.key"), active_from)


def _bytes(members: Mapping[str, Any], name: str, place: str) -> bytes:
    try:
        value = base64.b64decode(members[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        value = b""
    if len(value) != KEY_BYTES:
        raise ConfigurationError(f"{place}: must be 32 bytes in base64")
    return value
