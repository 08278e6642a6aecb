"""
The bytes of an encrypted body, version 1: pure. docs/reference/encrypted-body.md is the standard.

    offset      size  field
    0           1     version: 1
    1           1     compression of the content: 0 none, 1 gzip, 2 zstd
    2           16    id of the subject key, a UUID; zeros if the event names no subject
    18          1     k, the length of the key id; 0 with a subject
    19          k     id of the key-encryption key, ASCII
    19 + k      2     w, the length of the wrapped data key, big-endian; 0 with a subject
    21 + k      w     the wrapped data key
    21 + k + w  12    nonce
    33 + k + w  n     ciphertext of the content, and 16 bytes of its tag
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias
from uuid import UUID

from outbox.encryption.keys import WrappedKey
from outbox.errors import UnreadableMessage

VERSION = 1
NONCE_BYTES, TAG_BYTES, KEY_BYTES = 12, 16, 32
FIXED_BYTES = 18
"""The fields before the key id, which the tag covers."""
SUBJECT_AT, SUBJECT_BYTES = 2, 16
"""Where SQL finds the id of the subject key: `substring(body FROM 3 FOR 16)`."""
MAX_KEY_ID_BYTES = 64
MAX_WRAPPED_BYTES = 8_192

Compression: TypeAlias = Literal["none", "gzip", "zstd"]
COMPRESSIONS: tuple[Compression, ...] = ("none", "gzip", "zstd")
"""The compressions of a content, at the positions of their numbers."""

_NO_SUBJECT = bytes(SUBJECT_BYTES)


# Not frozen: each message of a consumer makes one.
@dataclass(slots=True)
class EncryptedBody:
    """
    An encrypted body in its parts.

    Args:
        fixed: The first 18 bytes, which the tag covers.
        subject: The id of the subject key; None if the event names no subject.
        key_id: The key-encryption key; empty with a subject.
        wrapped_key: The data key, encrypted; empty with a subject.
        ciphertext: With its tag.

    """

    fixed: bytes
    compression: Compression
    subject: UUID | None
    key_id: str
    wrapped_key: bytes
    nonce: bytes
    ciphertext: bytes


def fixed(compression: Compression, subject: UUID | None) -> bytes:
    """The first 18 bytes of a body."""
    start = bytes((VERSION, COMPRESSIONS.index(compression)))
    return start + (_NO_SUBJECT if subject is None else subject.bytes)


def key_part(key_id: str, wrapped_key: bytes) -> bytes:
    """The bytes between the fixed part and the nonce."""
    name = key_id.encode("ascii")
    return bytes((len(name),)) + name + len(wrapped_key).to_bytes(2) + wrapped_key


NO_KEY_PART = key_part("", b"")
"""The key part of a body that a subject key encrypts."""


def parse(body: bytes) -> EncryptedBody:
    """
    The parts of *body*.

    Raises UnreadableMessage with the code `malformed`, or `schema_unsupported` for a later version
    of the format.
    """
    if len(body) <= FIXED_BYTES:
        raise UnreadableMessage("malformed", "body")
    version, compression, key_id_bytes = body[0], body[1], body[FIXED_BYTES]
    if version != VERSION:
        raise UnreadableMessage("schema_unsupported", "body")
    wrapped_at = FIXED_BYTES + 1 + key_id_bytes + 2
    nonce_at = wrapped_at + int.from_bytes(body[wrapped_at - 2 : wrapped_at])
    ciphertext_at = nonce_at + NONCE_BYTES
    name = body[FIXED_BYTES + 1 : wrapped_at - 2]
    if (
        compression >= len(COMPRESSIONS)
        or key_id_bytes > MAX_KEY_ID_BYTES
        or not _is_key_id(name)
        or len(body) < ciphertext_at + TAG_BYTES
    ):
        raise UnreadableMessage("malformed", "body")
    subject = body[SUBJECT_AT:FIXED_BYTES]
    return EncryptedBody(
        body[:FIXED_BYTES],
        COMPRESSIONS[compression],
        None if subject == _NO_SUBJECT else UUID(bytes=subject),
        name.decode("ascii"),
        body[wrapped_at:nonce_at],
        body[nonce_at:ciphertext_at],
        body[ciphertext_at:],
    )


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
    return None if parts.subject is not None else WrappedKey(parts.key_id, parts.wrapped_key)


def _is_key_id(name: bytes) -> bool:
    """Whether a key may have this id; it is empty with a subject."""
    return name.isascii() and name.decode("ascii").isprintable() and b" " not in name


def rewrapped(body: bytes, key_id: str, wrapped_key: bytes) -> bytes:
    """*body* with another key-encryption key; the plaintext is not needed. Raises as `parse`."""
    parts = parse(body)
    return b"".join((parts.fixed, key_part(key_id, wrapped_key), parts.nonce, parts.ciphertext))
