"""
Small bodies that are very large when decompressed.
"""

import gzip
import zlib

_BLOCK = 2**20


def gzip_bomb(size: int) -> bytes:
    """Gzip data of about *size* zeros, made in milliseconds, without the checksum at its end."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush the next bytes do not depend on earlier ones, so a block can be repeated.
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    header = gzip.compress(b"")[:10]
    return header + block * (size // _BLOCK)
