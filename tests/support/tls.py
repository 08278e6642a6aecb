"""
Servers that speak TLS: certificates of an authority of the test, valid or not.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme

from tests.support.eventually import eventually
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.rabbitmq import RabbitmqServer

SSL_REQUEST = 8
"""Bytes of the request with which a client of Postgres asks for TLS."""


class Pair(NamedTuple):
    """The files of a certificate and of its key."""

    certificate: Path
    key: Path


class Authority:
    """An authority, whose certificate is in the file *path* of *folder*."""

    def __init__(self, folder: Path, name: str = "ca.pem") -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.path = folder / name
        self._authority.cert_pem.write_to_path(self.path)

    def context(self, host: str, *, days: float = 365) -> ssl.SSLContext:
        """Return the context of a server with a certificate for *host* that ends in *days*."""
        ends = datetime.now(tz=UTC) + timedelta(days=days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(host, not_after=ends).configure_cert(context)
        return context

    def pair(self, host: str, *, owner: str = "test") -> Pair:
        """Write a certificate for *host* and for the user *owner*, and its key."""
        issued = self._authority.issue_cert(host, common_name=owner)
        pair = Pair(
            *(self._folder / f"{self.path.stem}-{owner}-{each}" for each in ("crt", "key"))
        )
        issued.cert_chain_pems[0].write_to_path(pair.certificate)
        issued.private_key_pem.write_to_path(pair.key)
        return pair


@asynccontextmanager
async def certificates_demanded_of(
    user: str, server: PostgresServer, authority: Authority
) -> AsyncIterator[None]:
    """
    Create *user*, who logs in to *server* with a certificate of *authority* and no password.

    The programs write the files as the server itself, which reads no key of another account.
    """
    pair = authority.pair("127.0.0.1")
    for name, file in (("ca", authority.path), ("cert", pair.certificate), ("key", pair.key)):
        await _write(server, file.read_text(), f"cat > test-{name}.pem")
        await server.execute(f"ALTER SYSTEM SET ssl_{name}_file = 'test-{name}.pem'")
    await _write(
        server,
        f"hostssl all {user} all cert\nhostnossl all {user} all reject",
        "cp pg_hba.conf pg_hba.saved; cat - pg_hba.saved > pg_hba.conf",
    )
    await server.execute(f"CREATE ROLE {user} LOGIN")
    try:
        await _switch_tls(server, "on")
        yield
    finally:
        await _write(server, "", "cat > pg_hba.none; mv pg_hba.saved pg_hba.conf")
        await _switch_tls(server, "off")
        await server.execute(f"DROP ROLE {user}")


async def _write(server: PostgresServer, text: str, program: str) -> None:
    lines = ", ".join(f"'{line}'" for line in text.split("\n"))
    await server.execute(f"COPY (SELECT unnest(ARRAY[{lines}])) TO PROGRAM 'umask 077; {program}'")


async def _switch_tls(server: PostgresServer, state: str) -> None:
    async def is_switched() -> bool:
        async with server.connection() as connection:
            return bool(await connection.fetchval("SHOW ssl") == state)

    await server.execute(f"ALTER SYSTEM SET ssl = {state}")
    await server.execute("SELECT pg_reload_conf()")
    await eventually(is_switched, message=f"TLS was not switched {state}")


async def certificates_demanded_by(server: RabbitmqServer, authority: Authority) -> int:
    """
    Return a port on which *server* demands a certificate of *authority*, besides the password.

    It is closed when the server ends.
    """
    pair, port = authority.pair("127.0.0.1"), free_port()
    await server.evaluate(
        f'ok = rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}}, ['
        f'{{cacertfile, "{authority.path}"}}, {{certfile, "{pair.certificate}"}},'
        f' {{keyfile, "{pair.key}"}}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}'
        "], 1)."
    )
    return port


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
