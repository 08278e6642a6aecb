"""
Reads encrypted rows of the outbox again, in tests of their producer.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox import media_type
from outbox.encryption.decryptor import Decryptor
from outbox.encryption.keys import KeyProvider
from outbox.errors import UnreadableMessage
from outbox.wire import row_codec


def read(
    row: Mapping[str, Any], keys: KeyProvider, subjects: Mapping[UUID, AESGCM]
) -> dict[str, Any]:
    """Return *row* with its plain content; as bytes if the keys do not decrypt it."""
    envelope = row_codec.from_row({"exchange": None, **row, "body": bytes(row["body"])})
    try:
        found = Decryptor(keys).content(envelope, subjects)
    except UnreadableMessage:
        return {**row, "content_type": media_type.UNKNOWN}
    return {
        **row,
        "body": found.body,
        "content_encoding": None,
        "correlation_id": found.correlation_id,
        "headers": {**row["headers"], **found.headers},
    }
