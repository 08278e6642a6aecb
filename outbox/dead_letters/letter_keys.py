"""
The keys of an operator, for encrypted bodies of dead letters.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox.encryption import associated_data, body_format, content
from outbox.encryption.body_format import NO_KEY_PART, NONCE_BYTES
from outbox.encryption.content import Content
from outbox.encryption.data_keys import CurrentDataKey
from outbox.encryption.decryptor import Decryptor
from outbox.encryption.digests import digest
from outbox.encryption.keys import KeyProvider
from outbox.encryption.subjects import SubjectKeyReader
from outbox.errors import ConfigurationError, UnreadableMessage
from outbox.payload import MAX_BODY_BYTES
from outbox.wire.encrypted import SUBJECT_ERASED
from outbox.wire.envelope import Envelope


@dataclass(frozen=True, slots=True)
class LetterKeys:
    """Reads and writes encrypted bodies with *keys*, and those of *subjects* if they are known."""

    keys: KeyProvider
    subjects: SubjectKeyReader | None

    def digests(self, key: str) -> tuple[str, ...]:
        """The digests that stand for the idempotency key or the ordering key *key*."""
        secret = self.keys.digest_key()
        return (
            digest(secret, "idempotency_key", key).hex(),
            digest(secret, "ordering_key", key).hex(),
        )

    async def content(self, envelope: Envelope) -> Content:
        """The decrypted content of *envelope*; raises UnreadableMessage and KeysUnavailable."""
        async with self._subject_keys(envelope) as found:
            if body_format.subject_of(envelope.body) in {
                id_ for id_, key in found.items() if key is None
            }:
                raise UnreadableMessage(SUBJECT_ERASED)
            ciphers = {id_: AESGCM(key) for id_, key in found.items() if key is not None}
            return Decryptor(self.keys).content(envelope, ciphers)

    async def sealed(self, envelope: Envelope, body: bytes) -> bytes:
        """
        Encrypt *body* in place of the body of *envelope*, for the same person if it names one.

        Its private fields stay, if they can be decrypted. Raises ConfigurationError if the key of
        the person is unknown or was destroyed, and KeysUnavailable.
        """
        subject = body_format.subject_of(envelope.body)
        start = body_format.fixed("none", subject)
        if subject is None:
            cipher, key_part = CurrentDataKey(self.keys).take()
        else:
            async with self._subject_keys(envelope) as found:
                key = found.get(subject)
            if key is None:
                raise ConfigurationError(
                    "--body: the dead letter is about a person whose key was destroyed, or is not"
                    " in the key database of MQ_SUBJECT_KEYS_URL"
                )
            cipher, key_part = AESGCM(key), NO_KEY_PART
        packed = content.pack((await self._old(envelope))._replace(body=body))
        bound = associated_data.of_body(
            start,
            envelope.type,
            envelope.routing_key,
            envelope.content_type,
            str(envelope.id),
            envelope.idempotency_key,
        )
        nonce = os.urandom(NONCE_BYTES)
        sealed = b"".join((start, key_part, nonce, cipher.encrypt(nonce, packed, bound)))
        if len(sealed) > MAX_BODY_BYTES:
            raise ConfigurationError(f"--body: is larger than {MAX_BODY_BYTES} bytes if encrypted")
        return sealed

    async def _old(self, envelope: Envelope) -> Content:
        try:
            return await self.content(envelope)
        except UnreadableMessage:
            return Content(b"", None, {})

    @asynccontextmanager
    async def _subject_keys(
        self, envelope: Envelope
    ) -> AsyncIterator[Mapping[UUID, bytes | None]]:
        subject = body_format.subject_of(envelope.body)
        if subject is None or self.subjects is None:
            yield {}
            return
        async with self.subjects.holding({subject}) as held:
            yield held.keys
