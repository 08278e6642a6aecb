"""
TLS that fails with real servers: one line with the setting, the server and the reason.

Each fault is that of the database, the broker and the management API at once. The certificates
are those of an authority that exists for this file.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy.engine import make_url
from yarl import URL

from tests.support.certificates import DAY, Authority, Pair, self_signed
from tests.support.commands import CommandLine
from tests.support.roles import execute
from tests.support.servers import PostgresServer, RabbitmqServer
from tests.support.servers.private_rabbitmq import PrivateRabbitmq
from tests.support.tls import Listener, PostgresTls, listen, postgres_tls

HOST = "127.0.0.1"
USER = "certified"
TARGET = "tests.support.effects:consumer"
NO_LOGIN = r"the server refuses user, password or certificate, or pg_hba.conf has no .* \(28000\)"
NOT_ACCEPTED = (
    r"(the server closed the connection, as one .* certificate|TLS: .*the client's cert)"
)
DEMANDED = r"(the server closed the connection, as one .* certificate|TLS: .* of the client)"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """
    What is wrong, and the reasons in the lines of database, broker and management API.

    Args:
        code: The exit code that the answer of the database has.
        presented: The name of the certificate that the servers present.
        client: The name of the certificate that the process presents.
        demands: Whether the servers demand a certificate of the client.
        secure: Whether the process asks for TLS.
        listens: Whether the servers speak TLS.

    """

    reasons: tuple[str, str, str]
    code: int = 3
    presented: str = "good"
    client: str | None = None
    demands: bool = False
    secure: bool = True
    listens: bool = True


def of_server(reason: str, presented: str) -> Fault:
    return Fault(reasons=(f"TLS: the server's certificate {reason}$",) * 3, presented=presented)


def of_client(reason: str, client: str) -> Fault:
    return Fault(reasons=(reason,) * 3, client=client, demands=True)


FAULTS = {
    "the certificate of another host": of_server("is for another IP address", "other-host"),
    "an expired certificate": of_server("has expired", "expired"),
    "a certificate of the future": of_server("is not valid yet", "early"),
    "a self-signed certificate": of_server(
        "is self-signed, and not in the file of authorities", "self-signed"
    ),
    "the certificate of an unknown authority": of_server(
        "is signed by an unknown authority", "foreign"
    ),
    "no certificate of the client": Fault(
        reasons=(NO_LOGIN, DEMANDED, DEMANDED), code=2, demands=True
    ),
    "an expired certificate of the client": of_client(
        "TLS: the client's certificate has expired$", "expired"
    ),
    "a certificate of the client of the future": of_client(
        "TLS: the client's certificate is not valid yet$", "early"
    ),
    "a certificate of the client of another authority": of_client(NOT_ACCEPTED, "foreign"),
    "TLS to a port without it": Fault(
        reasons=(
            "TLS: the server does not offer TLS, or is no Postgres",
            "TLS: the port does not speak TLS",
            "TLS: the port does not speak TLS",
        ),
        listens=False,
    ),
    "plaintext to a port with TLS": Fault(
        reasons=(NO_LOGIN, "the .* use amqps$", "the .*; for a port with TLS use https$"),
        code=2,
        secure=False,
        demands=True,
    ),
}

GOOD = "certificates of both sides"
CASES = {**FAULTS, GOOD: Fault(reasons=("", "", ""), client="good", demands=True)}


class Certificates:
    """Certificates of servers and of clients by their names, valid or not."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.servers = self._pairs(folder, HOST, "server")
        self.servers["other-host"] = self.authority.pair("192.0.2.1", name="other-host")
        self.servers["self-signed"] = self_signed(folder, HOST)
        self.clients = self._pairs(folder, "client.example", "client")

    def _pairs(self, folder: Path, host: str, of: str) -> dict[str, Pair]:
        own, other = self.authority, Authority(folder, f"other-{of}.pem")
        return {
            "good": own.pair(host, owner=USER, name=f"{of}-good"),
            "expired": own.pair(host, owner=USER, name=f"{of}-expired", ends=-DAY),
            "early": own.pair(host, owner=USER, name=f"{of}-early", begins=DAY),
            "foreign": other.pair(host, owner=USER),
        }


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of this file, and the ports of broker and management API for each fault."""

    certificates: Certificates
    postgres: PostgresTls
    management_url: URL
    ports: dict[str, tuple[int, int]]

    def settings(self, name: str, *, database: str, broker: str) -> dict[str, str]:
        """The settings of a process for the case *name*."""
        amqps, https = self.ports[name]
        fault = CASES[name]
        return {
            "MQ_DATABASE_URL": self.database_url(database, fault),
            "MQ_BROKER_URL": self.broker_url(URL(broker), amqps, fault),
            "MQ_MANAGEMENT_URL": self.broker_url(self.management_url, https, fault),
        }

    async def serve(self, fault: Fault) -> None:
        """Let Postgres speak TLS as *fault* says."""
        if not fault.listens:
            await self.postgres.switch_off()
            return
        await self.postgres.present(
            self.certificates.servers[fault.presented], clients_of=self.certificates.authority
        )

    def database_url(self, base: str, fault: Fault) -> str:
        """The URL of the database at *base*, as *fault* says."""
        url = make_url(base).set(drivername="postgresql")
        if fault.demands:
            url = url.set(username=USER, password=None)
        files = {"sslmode": "disable"}
        if fault.secure:
            root = str(self.certificates.authority.path)
            files = {"sslmode": "verify-full", "sslrootcert": root}
        files |= self._of_client(fault, "sslcert", "sslkey")
        return url.update_query_dict(files).render_as_string(hide_password=False)

    def broker_url(self, base: URL, port: int, fault: Fault) -> str:
        """The URL of the broker or of the management API at *base*, as *fault* says."""
        port = port if fault.listens else base.explicit_port
        if not fault.secure:
            return str(base.with_port(port))
        files = {"cafile": str(self.certificates.authority.path)}
        files |= self._of_client(fault, "certfile", "keyfile")
        return str(base.with_scheme(f"{base.scheme}s").with_port(port).update_query(files))

    def _of_client(self, fault: Fault, *names: str) -> dict[str, str]:
        if fault.client is None:
            return {}
        return dict(zip(names, map(str, self.certificates.clients[fault.client]), strict=True))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def servers(
    postgres_server: PostgresServer,
    rabbitmq_server: RabbitmqServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Servers]:
    """Give the servers; all ports of RabbitMQ are opened by one command."""
    if not postgres_server.stoppable:
        pytest.fail("this test changes pg_hba.conf, and others may use the given server")
    if not isinstance(rabbitmq_server._instance, PrivateRabbitmq):
        pytest.fail("only a server on this machine can get other ports")
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    listeners = [
        Listener(
            pair=certificates.servers[fault.presented],
            protocol=protocol,
            clients_of=certificates.authority if fault.demands else None,
        )
        for fault in CASES.values()
        for protocol in ("amqps", "https")
    ]
    found = await listen(rabbitmq_server, listeners)
    ports = dict(zip(CASES, zip(found[::2], found[1::2], strict=True), strict=True))
    async with postgres_tls(postgres_server) as tls:
        await tls.demand_certificate(USER)
        yield Servers(certificates, tls, URL(rabbitmq_server.management_url), ports)


@pytest.mark.parametrize("name", FAULTS)
async def test_every_command_names_the_server_and_the_reason_for_which_tls_fails(
    name, servers, postgres_url, rabbitmq_url, tmp_path
):
    fault = FAULTS[name]
    urls = servers.settings(name, database=postgres_url, broker=rabbitmq_url)
    run = CommandLine(tmp_path, MQ_REQUIRED_QUEUES='["x"]', MQ_METRICS_PORT="0", **urls)
    await servers.serve(fault)

    of_relay, of_consumer, relay, consumer = await asyncio.gather(
        run.run("relay", "check"),
        run.run("consumer", "check", TARGET),
        run.run("relay", "run"),
        run.run("consumer", "run", TARGET, MQ_DATABASE_URL=postgres_url),
    )

    expected = [
        f"{setting}: cannot connect to {HOST}:{URL(url).port}: {reason}"
        for (setting, url), reason in zip(urls.items(), fault.reasons, strict=True)
    ]
    for done in (of_relay, of_consumer):
        lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == len(expected)
        for line, pattern in zip(lines, expected, strict=True):
            assert re.match(f"error: {pattern}", line)
        assert done.code == fault.code
    assert re.search(expected[0].rstrip("$"), relay.err)
    assert re.search(expected[1].rstrip("$"), consumer.err)
    assert (relay.code, consumer.code) == (fault.code, 3)
    assert "Traceback" not in run.printed
    for url in (postgres_url, rabbitmq_url):
        assert str(URL(url).password) not in run.printed


async def test_certificates_of_both_sides_are_accepted_by_all_servers(
    servers, postgres_url, rabbitmq_url, rabbitmq_server, tmp_path
):
    urls = servers.settings(GOOD, database=postgres_url, broker=rabbitmq_url)
    run = CommandLine(tmp_path, MQ_REQUIRED_QUEUES='["x"]', **urls)
    vhost = URL(rabbitmq_url).path.removeprefix("/")
    await servers.serve(CASES[GOOD])
    await execute(
        postgres_url,
        *(
            f"GRANT ALL ON ALL {kind} IN SCHEMA public TO {USER}"
            for kind in ("TABLES", "SEQUENCES")
        ),
    )

    topology = await run.run("relay", "topology")
    queue = ("bindings", vhost, "e", "health_data_exchange", "q", "x")
    await rabbitmq_server.http.request("PUT", "queues", vhost, "x", body={"durable": True})
    await rabbitmq_server.http.request("POST", *queue, body={"routing_key": "#"})
    check = await run.run("relay", "check")

    assert (topology.code, check.code) == (0, 0), run.printed
    assert "error: " not in run.printed
