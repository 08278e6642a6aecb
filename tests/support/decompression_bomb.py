"""
Small bodies that are large when they are unpacked.
"""

import gzip
import zlib

_BLOCK = 2**20


def gzip_bomb(size: int) -> bytes:
    """About *size* zeros as gzip, made in no time, and without the checksum at its end."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush the next bytes depend on nothing before them, so a block can be repeated.
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    header = gzip.compress(b"")[:10]
    return header + block * (size // _BLOCK)
