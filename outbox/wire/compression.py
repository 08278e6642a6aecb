"""
Bodies compressed by their producer, and as they were before.

gzip comes with Python; zstd needs the extra `zstd`. Both are bounded: a body is at most
MAX_BODY_BYTES before and after.
"""

import gzip
import re
import threading
import zlib
from typing import Any

from outbox.errors import UnreadableMessage
from outbox.extras import packages_of
from outbox.payload import MAX_BODY_BYTES, Compression

ZSTD_MISSING = "zstd_missing"
"""The code for a body that a process with the extra `zstd` can read, and this one cannot."""

MIN_BYTES = 256
"""A shorter body stays as it is: compressed it would hardly be shorter."""

MOST_LEFT = 0.9
"""The largest part of a body that may be left; docs/reference/wire-format.md has the measures."""

MAX_WINDOW_BYTES = 8 * 1_048_576
"""The memory that a zstd frame may ask for; RFC 8878, section 3.1.1.1.2, recommends this much."""

_GZIP_WINDOW = 31
"""zlib's window bits for the gzip format."""
_GZIP_LEVEL, _ZSTD_LEVEL = 6, 3
_COMPRESSED_TYPES = re.compile(
    r"image/(?!svg)|audio/|video/|application/(zip|gzip|x-gzip|zstd|x-7z-compressed|pdf)\b"
    r"|[^;]+\+(zip|gzip|zstd)\b",
    re.IGNORECASE,
)

_EMPTY_BLOCK = b"\x01\0\0"
"""The last block of a zstd frame, without content; RFC 8878, section 3.1.1.2."""
_EMPTY_CHECKSUM = b"\x99\xe9\xd8\x51"
"""The checksum of no bytes."""

_CHARSET = re.compile(
    r"utf[-_]?(7|8|16|32)([-_]?[lb]e)?|(us-)?ascii|iso[-_]?8859-?\d+|latin-?\d+|windows-125\d|cp125\d"
)
_NO_ENCODING = {"", "identity", "binary", "7bit", "8bit"}
_GZIP = {"gzip", "x-gzip"}
_ZSTD = {"zstd"}


def compress(body: bytes, how: Compression, content_type: str) -> tuple[bytes, str | None]:
    """
    Return *body* and its content encoding, compressed if that saves a tenth or more.

    A short body, and one whose *content_type* says that it is compressed, stays as it is.
    Raises ConfigurationError for zstd without its package.
    """
    if how == "none" or len(body) < MIN_BYTES or _COMPRESSED_TYPES.match(content_type):
        return body, None
    smaller = _gzipped(body) if how == "gzip" else _zstd_writer().compress(body)
    return (smaller, how) if len(smaller) <= MOST_LEFT * len(body) else (body, None)


def decompress(body: bytes, encoding: str | None, *, limit: int = MAX_BODY_BYTES) -> bytes:
    """
    The plain body; reads at most one byte more than *limit*, so that bombs stay small.

    Some client libraries write a charset, or `binary`, where AMQP has the encoding. This is none.

    Raises UnreadableMessage with one of the codes `content_encoding_unknown`, `malformed`,
    `decompress_limit`, `zstd_missing`.
    """
    encodings = [name for name in _names(encoding or "") if not _is_none(name)]
    if not encodings:
        return body
    if len(encodings) == 1 and encodings[0] in _GZIP:
        return _of_gzip(body, limit)
    if len(encodings) == 1 and encodings[0] in _ZSTD:
        return _of_zstd(body, limit)
    raise UnreadableMessage("content_encoding_unknown")


def check_usable(how: Compression, source: str) -> None:
    """Raise ConfigurationError, which names *source*, if the package for *how* is missing."""
    if how == "zstd":
        with packages_of(f"{source}: zstd", extra="zstd"):
            import zstandard  # noqa: F401, PLC0415 - an extra


def _gzipped(body: bytes) -> bytes:
    # Without the time, so that equal bodies stay equal.
    return gzip.compress(body, compresslevel=_GZIP_LEVEL, mtime=0)


class _OfThread(threading.local):
    """The zstd contexts of a thread; a new one for each body takes three times as long."""

    writer: Any = None
    reader: Any = None


_of_thread = _OfThread()


def _zstd_writer() -> Any:
    if _of_thread.writer is None:
        check_usable("zstd", "compression")
        import zstandard  # noqa: PLC0415 - an extra

        _of_thread.writer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
    return _of_thread.writer


def _of_gzip(body: bytes, limit: int) -> bytes:
    reader = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = reader.decompress(body, limit + 1)
    except zlib.error:
        raise UnreadableMessage("malformed", "body") from None
    if len(plain) > limit:
        raise UnreadableMessage("decompress_limit")
    if not reader.eof or reader.unused_data:
        # Cut, or more than one: a part would pass for the whole.
        raise UnreadableMessage("malformed", "body")
    return plain


def _of_zstd(body: bytes, limit: int) -> bytes:
    try:
        import zstandard  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnreadableMessage(ZSTD_MISSING) from None
    if _of_thread.reader is None:
        _of_thread.reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    reader = _of_thread.reader
    try:
        # zstandard takes a size that the frame states for the limit, so that is looked at first.
        size = zstandard.frame_content_size(body)
        if size < 0:
            size = len(reader.stream_reader(body).read(limit + 1))
        if size > limit:
            raise UnreadableMessage("decompress_limit")
        if size == 0:
            has_checksum = zstandard.get_frame_parameters(body).has_checksum
            return _of_empty_frame(body[zstandard.frame_header_size(body) :], has_checksum)
        # One whole frame with its checksum, and nothing behind it: a part would pass for it.
        return bytes(reader.decompress(body, max_output_size=size, allow_extra_data=False))
    except zstandard.ZstdError:
        raise UnreadableMessage("malformed", "body") from None


def _of_empty_frame(rest: bytes, has_checksum: bool) -> bytes:
    """Nothing, if *rest* is all behind the header of an empty frame; zstandard ignores it."""
    if rest != _EMPTY_BLOCK + (_EMPTY_CHECKSUM if has_checksum else b""):
        raise UnreadableMessage("malformed", "body")
    return b""


def _names(encoding: str) -> list[str]:
    return [name.strip(" \t") for name in encoding.lower().split(",")]


def _is_none(name: str) -> bool:
    return name in _NO_ENCODING or _CHARSET.fullmatch(name) is not None
