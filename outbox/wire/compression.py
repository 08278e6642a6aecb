"""
Bodies as they were before compression.
"""

import zlib

from outbox.errors import UnreadableMessage
from outbox.payload import MAX_BODY_BYTES

_GZIP_WINDOW = 31
"""zlib's window bits for the gzip format."""


def decompress(body: bytes, encoding: str | None) -> bytes:
    """
    The plain body; reads at most one byte more than is allowed, so that bombs stay small.

    Raises UnreadableMessage with one of the codes `content_encoding_unknown`, `malformed`,
    `decompress_limit`.
    """
    if not encoding or encoding == "identity":
        return body
    if encoding != "gzip":
        raise UnreadableMessage("content_encoding_unknown")
    reader = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = reader.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        raise UnreadableMessage("malformed", "body") from None
    if len(plain) > MAX_BODY_BYTES:
        raise UnreadableMessage("decompress_limit")
    if not reader.eof or reader.unused_data:
        # Cut, or more than one: a part would pass for the whole.
        raise UnreadableMessage("malformed", "body")
    return plain
