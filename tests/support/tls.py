"""
Servers that speak TLS, with the certificates of a test.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from yarl import URL

from tests.support.certificates import Authority, Pair
from tests.support.eventually import eventually
from tests.support.servers.ports import free_ports
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.rabbitmq import RabbitmqServer

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""The request with which a client of Postgres asks for TLS."""

Protocol: TypeAlias = Literal["amqps", "https"]


class PostgresTls:
    """TLS of *server*, which is switched on by `present` and off by `close`."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._changed: set[str] = set()
        self._users: list[str] = []

    async def present(self, pair: Pair, *, clients_of: Authority | None = None) -> None:
        """
        Let new connections be served with the certificate of *pair*.

        Certificates of clients are verified by *clients_of*. The programs write the files as the
        server itself, which reads no key of another account.
        """
        files = {"cert": pair.certificate, "key": pair.key}
        if clients_of is not None:
            files["ca"] = clients_of.path
        for name, file in files.items():
            await self._write(file.read_text(), f"cat > test-{name}.pem")
            await self._set(f"ssl_{name}_file", f"test-{name}.pem")
        await self._set("ssl", "on")
        await self._reload()
        expected = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
        await eventually(
            lambda: self._presents(expected), message="the certificate is not presented"
        )

    async def demand_certificate(self, user: str) -> None:
        """Create *user*, who logs in with a certificate and no password, and only with TLS."""
        if not self._users:
            await self._write("", "cp pg_hba.conf pg_hba.saved")
        await self._write(
            f"hostssl all {user} all cert\nhostnossl all {user} all reject",
            "cat - pg_hba.conf > pg_hba.new; mv pg_hba.new pg_hba.conf",
        )
        await self._server.execute(f"CREATE ROLE {user} LOGIN")
        self._users.append(user)
        await self._reload()

    async def switch_off(self) -> None:
        """Serve new connections without TLS."""
        for name in self._changed:
            await self._server.execute(f"ALTER SYSTEM RESET {name}")
        self._changed.clear()
        await self._reload()
        await eventually(lambda: self._shows("ssl", "off"), message="TLS was not switched off")

    async def close(self) -> None:
        if self._users:
            await self._write("", "cat > pg_hba.none; mv pg_hba.saved pg_hba.conf")
        await self.switch_off()
        for user in self._users:
            await self._server.execute(f"DROP ROLE {user}")

    async def _set(self, name: str, value: str) -> None:
        await self._server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self._changed.add(name)

    async def _reload(self) -> None:
        """Let the server read its files again; it returns before they count."""
        await self._server.execute("SELECT pg_reload_conf()")

    async def _write(self, text: str, program: str) -> None:
        lines = ", ".join(f"'{line}'" for line in text.split("\n"))
        await self._server.execute(
            f"COPY (SELECT unnest(ARRAY[{lines}])) TO PROGRAM 'umask 077; {program}'"
        )

    async def _presents(self, certificate: bytes) -> bool:
        url = URL(self._server.admin_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            writer.write(SSL_REQUEST)
            if await reader.readexactly(1) != b"S":
                return False
            await writer.start_tls(_unverified(), server_hostname="")
            found: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return found.getpeercert(binary_form=True) == certificate
        except (OSError, EOFError):
            return False
        finally:
            writer.close()

    async def _shows(self, name: str, value: str) -> bool:
        async with self._server.connection() as connection:
            return bool(await connection.fetchval(f"SHOW {name}") == value)


@asynccontextmanager
async def postgres_tls(server: PostgresServer) -> AsyncIterator[PostgresTls]:
    """Yield the TLS of *server*, which ends with the block."""
    tls = PostgresTls(server)
    try:
        yield tls
    finally:
        await tls.close()


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A port on which RabbitMQ presents the certificate of *pair*."""

    pair: Pair
    protocol: Protocol = "amqps"
    clients_of: Authority | None = None

    def expression(self, port: int) -> str:
        """Return the call of Erlang that listens on *port*."""
        options = f'{{certfile, "{self.pair.certificate}"}}, {{keyfile, "{self.pair.key}"}}'
        if self.clients_of is not None:
            options += (
                f', {{cacertfile, "{self.clients_of.path}"}}, {{verify, verify_peer}},'
                " {fail_if_no_peer_cert, true}"
            )
        if self.protocol == "amqps":
            address = f'{{"127.0.0.1", {port}}}'
            return f"ok = rabbit_networking:start_ssl_listener({address}, [{options}], 1)"
        return (
            f"{{ok, _}} = rabbit_web_dispatch:register_context_handler(test_{port},"
            f' [{{ip, "127.0.0.1"}}, {{port, {port}}}, {{ssl, true}}, {{ssl_opts, [{options}]}}],'
            ' "", rabbit_mgmt_dispatcher:build_dispatcher([]), "test")'
        )


async def listen(server: RabbitmqServer, listeners: Sequence[Listener]) -> list[int]:
    """Return the ports of *listeners*, which are closed when *server* ends."""
    ports = free_ports(len(listeners))
    calls = [each.expression(port) for each, port in zip(listeners, ports, strict=True)]
    await server.evaluate(", ".join(calls) + ".")
    return ports


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


NO_VERSION = b"\x15\x03\x01\x00\x02\x02\x46"
"""The alert by which a server refuses all versions of TLS that the client offers."""


@asynccontextmanager
async def outdated_server(*, asked: bool) -> AsyncIterator[int]:
    """
    Yield the port of a server that speaks TLS 1.1 and older versions only.

    It says no more than such servers do: newer builds of OpenSSL cannot be told to speak these
    versions.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asked:
            await reader.readexactly(len(SSL_REQUEST))
            writer.write(b"S")
        await reader.read(1)
        writer.write(NO_VERSION)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


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
                await reader.readexactly(len(SSL_REQUEST))
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
