"""
Decrypts messages, in the process of their consumer.
"""

from collections.abc import Mapping
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox.encryption import associated_data, body_format, content
from outbox.encryption.body_format import Head
from outbox.encryption.content import PUBLIC_HEADERS, Content
from outbox.encryption.data_keys import UnwrappedKeys
from outbox.encryption.keys import KeyProvider, UnknownKey, WrongKey
from outbox.errors import UnreadableMessage
from outbox.validation import HeaderValue, is_key
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
        outside = envelope.headers
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
            {**_public(outside), **found.headers} if outside else found.headers,
            envelope.recorded_at,
            envelope.content_type,
        )

    def content(self, envelope: Envelope, subjects: Mapping[UUID, AESGCM]) -> Content:
        """Return the content of the body of *envelope*; raises as `decrypted`."""
        head, nonce, ciphertext = body_format.parse(envelope.body)
        cipher = self._cipher(head, subjects)
        bound = associated_data.of_body(
            head.fixed,
            envelope.type,
            envelope.routing_key,
            envelope.content_type,
            str(envelope.id),
            envelope.idempotency_key,
        )
        try:
            packed = cipher.decrypt(nonce, ciphertext, bound)
        except InvalidTag:
            raise UnreadableMessage(NOT_AUTHENTIC, "body") from None
        if head.compression != "none":
            packed = decompress(packed, head.compression, limit=content.MAX_BYTES)
        return content.unpack(packed)

    def _cipher(self, head: Head, subjects: Mapping[UUID, AESGCM]) -> AESGCM:
        if head.subject is not None:
            key = subjects.get(head.subject)
            if key is None:
                raise UnreadableMessage(KEY_UNKNOWN, "subject")
            return key
        try:
            return self.data_keys.cipher(head.wrapped)
        except UnknownKey:
            raise UnreadableMessage(KEY_UNKNOWN, head.wrapped.key_id) from None
        except WrongKey:
            raise UnreadableMessage(NOT_AUTHENTIC, "data key") from None


def _public(headers: Mapping[str, HeaderValue]) -> dict[str, HeaderValue]:
    return {name: value for name, value in headers.items() if name in PUBLIC_HEADERS}


def _private(text: str | None, digest: str | None) -> PrivateText | None:
    """The correlation id *text*, unless no event could have it."""
    return PrivateText.of(text, digest) if text is not None and is_key(text) else None
