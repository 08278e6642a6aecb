"""
Certificates and authorities that are replaced while relay and consumer work.

Both servers demand a certificate of the client and present one, all of one authority. A rotation
replaces the files of servers and clients; from then on neither side accepts the old ones, and the
servers end the connections that were made with them.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509
from prometheus_client.utils import floatToGoString
from sqlalchemy.engine import make_url
from yarl import URL

import outbox
from outbox.certificate_expiry import end_of_file
from tests.support.builders import an_event
from tests.support.certificates import DAY, Authority, Pair
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.probes import get
from tests.support.processes import ChildProcess
from tests.support.servers import PostgresServer, RabbitmqServer
from tests.support.servers.private_rabbitmq import PrivateRabbitmq
from tests.support.tls import Listener, PostgresTls, listen, postgres_tls

HOST = "127.0.0.1"
USER = "rotated"
METRIC = "mq_certificate_expiry_timestamp_seconds"
EXPIRED = "TLS: the client's certificate has expired"


class Files:
    """The files that servers and clients read, as the first authority has signed them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rotations = 0
        self.authority = Authority(folder, "authority.pem")
        self.server = self.authority.pair(HOST, name="server")
        self.client = self.authority.pair("client.example", owner=USER)

    def replace(self) -> None:
        """Replace all files by those of another authority."""
        self._rotations += 1
        new = Authority(self._folder, f"authority-{self._rotations}.pem")
        self.server.replace_by(new.pair(HOST, name="server", ends=60 * DAY))
        self.client.replace_by(new.pair("client.example", owner=USER, ends=30 * DAY))
        self.authority.path.write_bytes(new.path.read_bytes())

    def expired(self) -> Pair:
        """A certificate of the client that has expired."""
        return self.authority.pair("client.example", owner=USER, name="expired", ends=-DAY)


class Rotation:
    """The deployment and its servers."""

    def __init__(
        self,
        files: Files,
        postgres: tuple[PostgresServer, PostgresTls],
        rabbitmq: tuple[RabbitmqServer, str],
        deployment: Deployment,
    ) -> None:
        self.files = files
        self.deployment = deployment
        self._postgres, self._tls = postgres
        self._rabbitmq, self._vhost = rabbitmq
        self.committed: list[UUID] = []

    async def commit(self, count: int) -> None:
        events = [an_event() for _ in range(count)]
        async with self.deployment.engine.begin() as connection:
            await connection.execute(outbox.insert(*events))
        self.committed += [event.id for event in events]

    async def serve_new_files(self) -> None:
        """Let both servers use their files as they are now."""
        await self._tls.present(self.files.server, clients_of=self.files.authority)
        await self._rabbitmq.evaluate("ssl:clear_pem_cache().")

    async def disconnect(self) -> None:
        """Let both servers end the connections of the processes."""
        async with self._postgres.connection() as connection:
            await connection.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'"
            )
        await eventually(self._has_closed, within=20, message="the broker closed no connection")

    async def _has_closed(self) -> bool:
        return await self._rabbitmq.http.close_connections(self._vhost) > 0

    async def is_all_applied(self) -> bool:
        return set(await self.deployment.applied()) >= set(self.committed)

    async def logins(self) -> set[str]:
        """The serial numbers of the certificates with which clients are logged in now."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(
                "SELECT client_serial::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                f" WHERE usename = '{USER}'"
            )
        return {row["client_serial"] for row in rows}


@pytest.fixture
async def rotation(
    postgres_server, postgres_url, rabbitmq_server, rabbitmq_vhost, tmp_path
) -> AsyncIterator[Rotation]:
    if not postgres_server.stoppable or not isinstance(rabbitmq_server._instance, PrivateRabbitmq):
        pytest.fail("this test changes the servers, and others may use given ones")
    files = Files(tmp_path)
    (port,) = await listen(
        rabbitmq_server, [Listener(pair=files.server, clients_of=files.authority)]
    )
    certificate, key = map(str, files.client)
    root = str(files.authority.path)
    database = make_url(postgres_url).set(drivername="postgresql", username=USER, password=None)
    database = database.update_query_dict(
        {"sslmode": "verify-full", "sslrootcert": root, "sslcert": certificate, "sslkey": key}
    )
    broker = URL(rabbitmq_server.url(rabbitmq_vhost)).with_scheme("amqps").with_port(port)
    broker = broker.update_query(cafile=root, certfile=certificate, keyfile=key)
    async with postgres_tls(postgres_server) as tls:
        await tls.present(files.server, clients_of=files.authority)
        await tls.demand_certificate(USER)
        await postgres_server.execute(f"ALTER ROLE {USER} SUPERUSER")
        settings = {"MQ_DATABASE_URL": database.render_as_string()}
        async with Deployment(postgres_url, str(broker), tmp_path, **settings) as deployment:
            yield Rotation(
                files, (postgres_server, tls), (rabbitmq_server, rabbitmq_vhost), deployment
            )


async def metrics_of(process: ChildProcess) -> str:
    line = await process.wait_for_line("probes_listening")
    port = int(line.partition('"port": ')[2].partition(",")[0])
    return (await get(port, "/metrics")).decode()


def sample(server: str, of: str, ends: datetime | None) -> str:
    assert ends is not None
    end = floatToGoString(ends.timestamp())
    return f'{METRIC}{{certificate="{of}",server="{server}"}} {end}'


def serial(pair: Pair) -> str:
    return str(x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number)


async def test_rotated_certificates_and_authorities_count_at_the_next_connection(rotation):
    relay, consumer = await rotation.deployment.relay(), await rotation.deployment.consumer()
    before = serial(rotation.files.client)
    await rotation.commit(20)
    await eventually(rotation.is_all_applied, within=20)
    assert await rotation.logins() == {before}

    rotation.files.replace()
    await rotation.serve_new_files()
    await rotation.commit(20)  # over the connections that were made with the old files
    await eventually(rotation.is_all_applied, within=20)
    producing = asyncio.create_task(produce(rotation))
    await rotation.disconnect()
    await producing
    await eventually(rotation.is_all_applied, within=30)

    applied = await rotation.deployment.applied()
    assert sorted(applied) == sorted(rotation.committed)
    assert await rotation.deployment.dead() == []
    assert await rotation.logins() == {serial(rotation.files.client)} != {before}
    for process in (relay, consumer):
        metrics = await metrics_of(process)
        for server in ("database", "broker"):
            for of, pair in (("client", rotation.files.client), ("server", rotation.files.server)):
                assert sample(server, of, end_of_file(pair.certificate)) in metrics


async def produce(rotation: Rotation) -> None:
    for _ in range(20):
        await rotation.commit(5)


async def test_an_expired_certificate_of_the_client_is_named_until_it_is_replaced(rotation):
    processes = [await rotation.deployment.relay(), await rotation.deployment.consumer()]
    valid = rotation.files.authority.pair("client.example", owner=USER, name="valid")
    await rotation.commit(5)
    await eventually(rotation.is_all_applied, within=20)

    rotation.files.client.replace_by(rotation.files.expired())
    await rotation.commit(5)
    await rotation.disconnect()
    await rotation.commit(5)
    for process in processes:
        await process.wait_for_line(f'{EXPIRED}", "event": "server_unavailable"')
    rotation.files.client.replace_by(valid)

    await eventually(rotation.is_all_applied, within=30)
    assert sorted(await rotation.deployment.applied()) == sorted(rotation.committed)
    assert await rotation.deployment.dead() == []
    assert all(process.running for process in processes)
