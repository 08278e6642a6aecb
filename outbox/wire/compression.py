"""
Bodies as they were before compression.
"""

import re
import zlib

from outbox.errors import UnreadableMessage
from outbox.payload import MAX_BODY_BYTES

_GZIP_WINDOW = 31
"""zlib's window bits for the gzip format."""

_CHARSET = re.compile(
    r"utf[-_]?(7|8|16|32)([-_]?[lb]e)?|(us-)?ascii|iso[-_]?8859-?\d+|latin-?\d+|windows-125\d|cp125\d"
)
_NO_ENCODING = {"", "identity", "binary", "7bit", "8bit"}
_GZIP = {"gzip", "x-gzip"}


def decompress(body: bytes, encoding: str | None) -> bytes:
    """
    The plain body; reads at most one byte more than is allowed, so that bombs stay small.

    Some client libraries write a charset, or `binary`, where AMQP has the encoding. This is none.

    Raises UnreadableMessage with one of the codes `content_encoding_unknown`, `malformed`,
    `decompress_limit`.
    """
    encodings = [name for name in _names(encoding or "") if not _is_none(name)]
    if not encodings:
        return body
    if len(encodings) > 1 or encodings[0] not in _GZIP:
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


def _names(encoding: str) -> list[str]:
    return [name.strip(" \t") for name in encoding.lower().split(",")]


def _is_none(name: str) -> bool:
    return name in _NO_ENCODING or _CHARSET.fullmatch(name) is not None
