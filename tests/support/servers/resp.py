"""
A client of Redis in a few lines, so that what tests find does not depend on the product's client.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

Reply: TypeAlias = bytes | int | Sequence["Reply"] | None

PATIENCE_SECONDS = 5.0


class ReplyError(Exception):
    """The server has replied with an error."""


async def call(url: str, *words: str | int) -> Reply:
    """
    Return the reply to the command *words* on a connection of its own.

    Raises ReplyError, OSError, EOFError and TimeoutError. It verifies no certificate.
    """
    replies = await call_all(url, [words])
    return replies[0]


async def call_all(url: str, commands: Sequence[Sequence[str | int]]) -> list[Reply]:
    """Return the replies to *commands* on one connection; it raises what `call` raises."""
    parts = urlsplit(url)
    first: list[Sequence[str | int]] = []
    if parts.password is not None:
        first.append(("AUTH", unquote(parts.username or "default"), unquote(parts.password)))
    database = parts.path.strip("/")
    if database not in {"", "0"}:  # a Sentinel has none to choose
        first.append(("SELECT", database))
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, ssl=_unverified() if parts.scheme == "rediss" else None
        )
        try:
            for words in (*first, *commands):
                writer.write(_encoded(words))
            replies = [await _reply(reader) for _ in (*first, *commands)]
        finally:
            writer.close()
    return replies[len(first) :]


def _encoded(words: Sequence[str | int]) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


async def _reply(reader: asyncio.StreamReader) -> Reply:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    match kind:
        case b"+":
            return rest
        case b"-":
            raise ReplyError(rest.decode())
        case b":":
            return int(rest)
        case b"$":
            return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
        case b"*":
            return None if rest == b"-1" else [await _reply(reader) for _ in range(int(rest))]
    raise ReplyError("the server does not speak RESP 2")


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
