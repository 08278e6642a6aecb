"""
Decrypts the messages of a batch, while the keys of their subjects are held.

    before the decode    read and hold the keys of subjects; unwrap data keys that are not known
    decode               decrypt, without a request to a server
    before the COMMIT    verify that the keys are still held
    after the COMMIT     free them: an erasure that waits for this batch goes on

Nothing of it is imported without MQ_ENCRYPTION_KEYS.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consumer.execution.reading import Reading
from outbox.encryption import body_format
from outbox.encryption.decryptor import Decryptor
from outbox.encryption.keys import UnknownKey, WrappedKey, WrongKey
from outbox.encryption.subjects import SubjectKeyReader
from outbox.errors import KeysUnavailable, UnreadableMessage
from outbox.wire.codec import WireMessage
from outbox.wire.encrypted import (
    KEY_UNKNOWN,
    NOT_AUTHENTIC,
    SUBJECT_ERASED,
    Decrypt,
    is_encrypted,
    require_encrypted,
)
from outbox.wire.envelope import Envelope

_AT_ONCE = 4
"""
How many data keys a service is asked for at the same time.

Each producer process has a new one every five minutes, so that a consumer that was stopped for a
day meets thousands.
"""


@dataclass(slots=True)
class Decryption:
    """
    How a consumer decrypts: by *decryptor*, and with the keys of *subjects* if it has a reader.

    With *required*, a plain body is refused.
    """

    decryptor: Decryptor
    subjects: SubjectKeyReader | None = None
    required: bool = False
    _unwrapping: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _at_once: Reading = field(init=False)
    _waiting: Sequence[WireMessage] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._at_once = Reading(self._decrypt({}, {}))

    async def ready(self) -> None:
        """Raise KeysUnavailable while the keys that a batch needed last cannot be read."""
        if self._waiting:
            async with self.reading(self._waiting):
                pass

    def at_once(self, messages: Sequence[WireMessage]) -> Reading | None:
        """Return how *messages* are read if all their keys are here; None if a server has them."""
        bodies = [each.body for each in messages if is_encrypted(each.content_encoding)]
        if self.subjects is not None and any(map(body_format.subject_of, bodies)):
            return None
        keys = self.decryptor.data_keys
        if keys.may_block and not all(map(keys.is_known, _wrapped_keys(bodies))):
            return None
        self._waiting = ()
        return self._at_once

    @asynccontextmanager
    async def reading(self, messages: Sequence[WireMessage]) -> AsyncIterator[Reading]:
        """Hold the keys of *messages*; yields how they are read. Raises KeysUnavailable."""
        if (at_once := self.at_once(messages)) is not None:
            yield at_once
            return
        bodies = [each.body for each in messages if is_encrypted(each.content_encoding)]
        ids = set(filter(None, map(body_format.subject_of, bodies)))
        try:
            refused = await self._unwrap(bodies)
            if not ids or self.subjects is None:
                self._waiting = ()
                yield Reading(self._decrypt({}, refused))
                return
            async with self.subjects.holding(ids) as held:
                self._waiting = ()
                yield Reading(self._decrypt(held.keys, refused), held.verify)
        except KeysUnavailable:
            self._waiting = messages
            raise

    async def _unwrap(self, bodies: Iterable[bytes]) -> Mapping[WrappedKey, UnreadableMessage]:
        """Unwrap the data keys of *bodies*, in threads; returns those refused, and why."""
        keys = self.decryptor.data_keys
        if not keys.may_block:
            return {}
        needed = dict.fromkeys(_wrapped_keys(bodies))
        if all(map(keys.is_known, needed)):
            return {}
        # One batch after another: the next one may find its keys unwrapped.
        async with self._unwrapping:
            unknown = [each for each in needed if not keys.is_known(each)]
            parts = [unknown[start::_AT_ONCE] for start in range(min(_AT_ONCE, len(unknown)))]
            found = await asyncio.gather(*(asyncio.to_thread(self._unwrapped, p) for p in parts))
            return {wrapped: error for refused in found for wrapped, error in refused.items()}

    def _unwrapped(self, needed: Iterable[WrappedKey]) -> Mapping[WrappedKey, UnreadableMessage]:
        refused: dict[WrappedKey, UnreadableMessage] = {}
        for wrapped in needed:
            try:
                self.decryptor.data_keys.cipher(wrapped)
            except UnknownKey:
                refused[wrapped] = UnreadableMessage(KEY_UNKNOWN, wrapped.key_id)
            except WrongKey:
                refused[wrapped] = UnreadableMessage(NOT_AUTHENTIC, "data key")
        return refused

    def _decrypt(
        self,
        keys: Mapping[UUID, bytes | None],
        refused: Mapping[WrappedKey, UnreadableMessage],
    ) -> Decrypt:
        ciphers = {id_: AESGCM(key) for id_, key in keys.items() if key is not None}
        erased = {id_ for id_, key in keys.items() if key is None}

        def decrypt(envelope: Envelope) -> Envelope:
            if envelope.content_encoding is None:
                if self.required:
                    require_encrypted(None)
                return envelope
            if erased and body_format.subject_of(envelope.body) in erased:
                raise UnreadableMessage(SUBJECT_ERASED)
            if refused and (wrapped := body_format.wrapped_key_of(envelope.body)):
                _raise_if(refused.get(wrapped))
            return self.decryptor.decrypted(envelope, ciphers)

        return decrypt


def _wrapped_keys(bodies: Iterable[bytes]) -> Iterator[WrappedKey]:
    return filter(None, map(body_format.wrapped_key_of, bodies))


def _raise_if(error: UnreadableMessage | None) -> None:
    if error is not None:
        raise error
