"""
Decrypts messages, in the process of their consumer.
"""

from collections.abc import Mapping
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox.encryption import associated_data, body_format, content
from outbox.encryption.body_format import EncryptedBody
from outbox.encryption.content import Content
from outbox.encryption.data_keys import UnwrappedKeys
from outbox.encryption.keys import KeyProvider, UnknownKey, WrappedKey, WrongKey
from outbox.errors import UnreadableMessage
from outbox.wire.compression import decompress
from outbox.wire.encrypted import KEY_UNKNOWN, NOT_AUTHENTIC, PrivateText
from outbox.wire.envelope import Envelope


class Decryptor:
    """Decrypts envelopes with the keys of *keys*."""

    def __init__(self, keys: KeyProvider) -> None:
        self.data_keys = UnwrappedKeys(keys)

    def decrypted(self, envelope: Envelope, subjects: Mapping[UUID, AESGCM]) -> Envelope:
        """
        Return *envelope* with its plain body, the headers and the correlation id of its event.

        *subjects* has the keys of the subjects that were not erased.
        Raises UnreadableMessage with the code `key_unknown`, `body_not_authentic`, `malformed`,
        `schema_unsupported` or one of `outbox.wire.compression`, and KeysUnavailable.
        """
        found = self.content(envelope, subjects)
        return Envelope(
            envelope.id,
            envelope.type,
            found.body,
            envelope.routing_key,
            envelope.idempotency_key,
            envelope.occurred_at,
            envelope.exchange,
            None,
            envelope.lane,
            _private(found.correlation_id, envelope.correlation_id),
            envelope.priority,
            {**envelope.headers, **found.headers},
            envelope.recorded_at,
            envelope.content_type,
        )

    def content(self, envelope: Envelope, subjects: Mapping[UUID, AESGCM]) -> Content:
        """Return the content of the body of *envelope*; raises as `decrypted`."""
        body = body_format.parse(envelope.body)
        return self._content(envelope, body, self._cipher(body, subjects))

    def _cipher(self, body: EncryptedBody, subjects: Mapping[UUID, AESGCM]) -> AESGCM:
        if body.subject is not None:
            key = subjects.get(body.subject)
            if key is None:
                raise UnreadableMessage(KEY_UNKNOWN, "subject")
            return key
        try:
            return self.data_keys.cipher(WrappedKey(body.key_id, body.wrapped_key))
        except UnknownKey:
            raise UnreadableMessage(KEY_UNKNOWN, body.key_id) from None
        except WrongKey:
            raise UnreadableMessage(NOT_AUTHENTIC, "data key") from None

    @staticmethod
    def _content(envelope: Envelope, body: EncryptedBody, cipher: AESGCM) -> Content:
        bound = associated_data.of_body(
            body.fixed,
            envelope.type,
            envelope.routing_key,
            envelope.content_type,
            str(envelope.id),
            envelope.idempotency_key,
        )
        try:
            packed = cipher.decrypt(body.nonce, body.ciphertext, bound)
        except InvalidTag:
            raise UnreadableMessage(NOT_AUTHENTIC, "body") from None
        if body.compression != "none":
            packed = decompress(packed, body.compression)
        return content.unpack(packed)


def _private(text: str | None, digest: str | None) -> PrivateText | None:
    return None if text is None else PrivateText.of(text, digest)
