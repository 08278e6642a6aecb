"""
Rows F20 and F28: disks that run full, under Postgres, RabbitMQ and SQLite.

These tests mount small disks, which takes root.
"""

import asyncio
from collections.abc import Iterator

import pytest

from outbox.database import migrate
from tests.support.checked_deployment import CheckedDeployment
from tests.support.eventually import eventually
from tests.support.integrity import is_sound
from tests.support.servers import PostgresServer, RabbitmqServer
from tests.support.servers.disk import SmallDisk
from tests.support.servers.fleet import POSTGRES, RABBITMQ
from tests.support.servers.isolation import unprivileged_account
from tests.support.servers.private_postgres import SMALL_SEGMENTS, PrivatePostgres
from tests.support.servers.private_rabbitmq import PrivateRabbitmq

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

SMALL = {"max_wal_size": "8MB", "min_wal_size": "2MB"}
FULL_SECONDS = 5.0


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with SmallDisk(160) as disk:
        yield disk


@pytest.fixture
def disk_of_postgres() -> Iterator[SmallDisk]:
    with SmallDisk(100, owner=unprivileged_account()) as disk:
        yield disk


async def some_time_later(deployment: CheckedDeployment, disk: SmallDisk) -> None:
    """Free the disk, once every process has failed to write for some seconds."""
    await deployment.wait(FULL_SECONDS)
    disk.free()


@pytest.mark.selection
async def test_the_product_resumes_when_the_full_disk_of_postgres_has_room_again(
    rabbitmq_url, disk_of_postgres, tmp_path
):
    """F20: Postgres."""
    instance = PrivatePostgres(
        POSTGRES.programs(),
        disk=disk_of_postgres.directory,
        settings=SMALL,
        creating=SMALL_SEGMENTS,
    )
    server = PostgresServer(instance.url, instance)
    try:
        await server.start()
        url = server.url(await server.create_database())
        await asyncio.to_thread(migrate.upgrade, url)
        async with CheckedDeployment(url, rabbitmq_url, tmp_path) as deployment:
            await deployment.start_processes()
            async with deployment.survives("disk full", progress_seconds=30):
                disk_of_postgres.fill()
                await eventually(lambda: deployment.last_error, within=60)
                await some_time_later(deployment, disk_of_postgres)
                await server.revive()
    finally:
        server.close()


async def test_the_product_resumes_when_the_full_disk_of_rabbitmq_has_room_again(
    postgres_url, disk, tmp_path
):
    """
    F20: RabbitMQ, with a disk alarm that is set too low to be of use.

    RabbitMQ does not resume the log of its quorum queues by itself: the node must be restarted.
    """
    instance = PrivateRabbitmq(RABBITMQ.programs(), disk=disk.directory)
    server = RabbitmqServer(instance.url, instance.management_url, instance)
    try:
        await server.start()
        async with (
            server.vhost() as vhost,
            CheckedDeployment(postgres_url, server.url(vhost), tmp_path) as deployment,
        ):
            relay, _ = await deployment.start_processes()
            async with deployment.survives("disk full", progress_seconds=30):
                disk.fill()
                await relay.wait_for_line("server_unavailable", within=60)
                await some_time_later(deployment, disk)
                await server.kill()
                await server.start()
    finally:
        server.close()


@pytest.mark.selection
async def test_the_product_resumes_when_the_full_disk_of_sqlite_has_room_again(disk, tmp_path):
    """F28: disk full. Outbox, broker and dedup store are on it."""
    database, broker = disk.directory / "outbox.db", disk.directory / "broker.db"
    url = f"sqlite+aiosqlite:///{database}"
    await asyncio.to_thread(migrate.upgrade, url)
    async with CheckedDeployment(url, f"sqlite:///{broker}", tmp_path) as deployment:
        await deployment.start_processes()
        async with deployment.survives("disk full"):
            disk.fill()
            await eventually(lambda: deployment.last_error, within=60)
            await some_time_later(deployment, disk)
    assert is_sound(database)
    assert is_sound(broker)
