"""
Small bodies that are very large when decompressed.
"""

import gzip
import zlib

_BLOCK = 2**20


def zstd_bomb(size: int, *, window_log: int = 20) -> bytes:
    """A zstd frame (RFC 8878) of about *size* zeros that does not state it, and has no end."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0, (window_log - 10) << 3])
    # A block of type 1 repeats one byte; 128 KiB is the longest.
    longest = 2**17
    block = (longest << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return header + block * (size // longest)


def gzip_bomb(size: int) -> bytes:
    """Gzip data of about *size* zeros, made in milliseconds, without the checksum at its end."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush the next bytes do not depend on earlier ones, so a block can be repeated.
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    header = gzip.compress(b"")[:10]
    return header + block * (size // _BLOCK)
