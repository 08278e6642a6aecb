"""
The bytes of an encrypted body, version 1: pure. docs/reference/encrypted-body.md is the standard.

    offset      size  field
    0           1     version: 1
    1           1     compression of the content: 0 none, 1 gzip, 2 zstd
    2           16    id of the subject key, a UUID; zeros if the event names no subject
    18          1     k, the length of the key id; 0 with a subject, else 1 to 255
    19          k     id of the key-encryption key, printable ASCII without blanks
    19 + k      2     w, the length of the wrapped data key, big-endian; 0 with a subject, else
                      1 to 8,192
    21 + k      w     the wrapped data key
    21 + k + w  12    nonce
    33 + k + w  n     ciphertext of the content, and 16 bytes of its tag
"""

from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from outbox.encryption.keys import WrappedKey
from outbox.errors import ConfigurationError, UnreadableMessage
from outbox.payload import COMPRESSIONS, Compression

VERSION = 1
NONCE_BYTES, TAG_BYTES, KEY_BYTES = 12, 16, 32
FIXED_BYTES = 18
"""The fields before the key id, which the tag covers."""
SUBJECT_AT, SUBJECT_BYTES = 2, 16
"""Where SQL finds the id of the subject key: `substring(body FROM 3 FOR 16)`."""
MAX_KEY_ID_BYTES = 255
"""Names of keys in the services of clouds have 75 bytes and more."""
MAX_WRAPPED_BYTES = 8_192

_STARTS = {name: bytes((VERSION, number)) for number, name in enumerate(COMPRESSIONS)}
_NO_SUBJECT = bytes(SUBJECT_BYTES)
_KEY_ID_AT = FIXED_BYTES + 1


class Head(NamedTuple):
    """
    What is in front of the nonce: the same in all bodies that one data key encrypts.

    Args:
        fixed: The first 18 bytes, which the tag covers.
        compression: That of the content.
        subject: The id of the subject key; None if the event names no subject.
        wrapped: The data key, as the key-encryption key has encrypted it; both of its fields are
            empty with a subject.

    """

    fixed: bytes
    compression: Compression
    subject: UUID | None
    wrapped: WrappedKey


class EncryptedBody(NamedTuple):
    """An encrypted body in its parts; *ciphertext* is with its tag."""

    head: Head
    nonce: bytes
    ciphertext: bytes

    @property
    def key_id(self) -> str:
        """The key-encryption key; empty with a subject."""
        return self.head.wrapped.key_id

    @property
    def wrapped_key(self) -> bytes:
        """The data key, encrypted; empty with a subject."""
        return self.head.wrapped.wrapped

    @property
    def subject(self) -> UUID | None:
        """The id of the subject key."""
        return self.head.subject

    def __repr__(self) -> str:
        return f"EncryptedBody({self.head}, {len(self.ciphertext)} bytes)"


def fixed(compression: Compression, subject: UUID | None) -> bytes:
    """The first 18 bytes of a body."""
    return _STARTS[compression] + (_NO_SUBJECT if subject is None else subject.bytes)


def key_part(key_id: str, wrapped_key: bytes) -> bytes:
    """
    The bytes between the fixed part and the nonce.

    Raises ConfigurationError if a source of keys has an id, or a wrapped key, that does not fit.
    """
    name = key_id.encode("ascii", "replace")
    if not 0 < len(name) <= MAX_KEY_ID_BYTES or name.decode() != key_id or not _is_plain(key_id):
        raise ConfigurationError(
            f"MQ_ENCRYPTION_KEYS: the id of a key must be 1 to {MAX_KEY_ID_BYTES} printable"
            " characters of ASCII without blanks"
        )
    if not 0 < len(wrapped_key) <= MAX_WRAPPED_BYTES:
        raise ConfigurationError(
            f"MQ_ENCRYPTION_KEYS: a wrapped key must have 1 to {MAX_WRAPPED_BYTES} bytes"
        )
    return bytes((len(name),)) + name + len(wrapped_key).to_bytes(2) + wrapped_key


NO_KEY_PART = bytes(3)
"""The key part of a body that a subject key encrypts."""


def parse(body: bytes) -> EncryptedBody:
    """
    The parts of *body*.

    Raises UnreadableMessage with the code `malformed`, or `schema_unsupported` for a later version
    of the format.
    """
    if type(body) is not bytes:
        body = bytes(body)  # some drivers have a memoryview
    if len(body) <= FIXED_BYTES:
        raise UnreadableMessage("malformed", "body")
    wrapped_at = _KEY_ID_AT + body[FIXED_BYTES] + 2
    nonce_at = wrapped_at + int.from_bytes(body[wrapped_at - 2 : wrapped_at])
    head = _head(body[:nonce_at])
    ciphertext_at = nonce_at + NONCE_BYTES
    if len(body) < ciphertext_at + TAG_BYTES:
        raise UnreadableMessage("malformed", "body")
    return EncryptedBody(head, body[nonce_at:ciphertext_at], body[ciphertext_at:])


# A data key encrypts many events.
@lru_cache(maxsize=1024)
def _head(head: bytes) -> Head:
    version, compression = head[0], head[1]
    if version != VERSION:
        raise UnreadableMessage("schema_unsupported", "body")
    if compression >= len(COMPRESSIONS):
        raise UnreadableMessage("malformed", "body")
    fixed, key_part = head[:FIXED_BYTES], head[FIXED_BYTES:]
    if not fixed.endswith(_NO_SUBJECT):
        # The tag does not cover a key part: with a subject there is none that could be changed.
        if key_part != NO_KEY_PART:
            raise UnreadableMessage("malformed", "body")
        subject = UUID(bytes=fixed[SUBJECT_AT:])
        return Head(fixed, COMPRESSIONS[compression], subject, WrappedKey("", b""))
    wrapped_at = 1 + key_part[0] + 2
    key_id, wrapped_key = key_part[1 : wrapped_at - 2].decode("latin-1"), key_part[wrapped_at:]
    if not _is_plain(key_id) or not 0 < len(wrapped_key) <= MAX_WRAPPED_BYTES:
        raise UnreadableMessage("malformed", "body")
    return Head(fixed, COMPRESSIONS[compression], None, WrappedKey(key_id, wrapped_key))


def _is_plain(key_id: str) -> bool:
    return key_id.isascii() and key_id.isprintable() and key_id != "" and " " not in key_id


def subject_of(body: bytes) -> UUID | None:
    """The id of the subject key of *body*; None if it names none, or is none of this version."""
    subject = body[SUBJECT_AT:FIXED_BYTES]
    if len(body) <= FIXED_BYTES or body[0] != VERSION or subject == _NO_SUBJECT:
        return None
    return UUID(bytes=subject)


def wrapped_key_of(body: bytes) -> WrappedKey | None:
    """The wrapped data key of *body*; None if a subject key encrypts it, or it is malformed."""
    try:
        parts = parse(body)
    except UnreadableMessage:
        return None
    return None if parts.subject is not None else parts.head.wrapped


def rewrapped(body: bytes, key_id: str, wrapped_key: bytes) -> bytes:
    """
    *body* with another key-encryption key; the plaintext is not needed.

    Raises as `parse` and `key_part`, and ValueError if the key of a subject encrypts it.
    """
    parts = parse(body)
    if parts.subject is not None:
        raise ValueError("a body of a subject has no wrapped key")
    start = parts.head.fixed + key_part(key_id, wrapped_key)
    return b"".join((start, parts.nonce, parts.ciphertext))
