"""
The minimal lower layer protocol: a block is VT, the message, FS, CR.
"""

import asyncio
from collections.abc import AsyncIterator

LARGEST = 1_000_000
"""Bytes of one block; the body of an event has at most 1 MiB."""

_START, _END = b"\x0b", b"\x1c\r"


class InvalidBlock(Exception):  # noqa: N818
    """The stream has bytes outside of a block, or a block that is too large."""


async def blocks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """
    The messages in *reader*, whose limit is `LARGEST`, until the sender closes it.

    A block that the sender has not finished is dropped: it gets no answer, and is sent again.
    Raises InvalidBlock; where the next block begins is not known then.
    """
    while True:
        try:
            block = await reader.readuntil(_END)
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            raise InvalidBlock("is too large") from None
        # Some senders put line ends between blocks.
        block = block.lstrip(b"\r\n")
        if not block.startswith(_START):
            raise InvalidBlock("has no start")
        yield block.removeprefix(_START).removesuffix(_END)


def framed(message: bytes) -> bytes:
    return _START + message + _END
