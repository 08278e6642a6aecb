"""
Servers that only speak TLS: certificates of an authority of the test, valid or not.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

SSL_REQUEST = 8
"""Bytes of the request with which a client of Postgres asks for TLS."""


class Authority:
    """An authority, whose certificate is in the file *path* of *folder*."""

    def __init__(self, folder: Path, name: str = "ca.pem") -> None:
        self._authority = trustme.CA()
        self.path = folder / name
        self._authority.cert_pem.write_to_path(self.path)

    def context(self, host: str, *, days: float = 365) -> ssl.SSLContext:
        """Return the context of a server with a certificate for *host* that ends in *days*."""
        ends = datetime.now(tz=UTC) + timedelta(days=days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(host, not_after=ends).configure_cert(context)
        return context


@asynccontextmanager
async def tls_server(context: ssl.SSLContext | None, *, asked: bool) -> AsyncIterator[int]:
    """
    Yield the port of a server that makes TLS handshakes and says no more.

    With *asked* the client has to ask for TLS first, as it asks Postgres; without *context* the
    answer is no.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if asked:
                await reader.readexactly(SSL_REQUEST)
                writer.write(b"N" if context is None else b"S")
                await writer.drain()
                if context is not None:
                    await writer.start_tls(context)
            await reader.read()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if asked else context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
