import sqlite3
from contextlib import closing
from pathlib import Path

import aio_pika
import asyncpg
import pytest

from tests.support.eventually import eventually
from tests.support.reaper import process_exists
from tests.support.servers import Depth, NotOursError, PostgresServer, RabbitmqServer
from tests.support.servers.binaries import rabbitmq_binaries
from tests.support.servers.private_rabbitmq import PrivateRabbitmq


def driver_url(url: str) -> str:
    return url.replace("+asyncpg", "")


async def create_note(url: str, text: str) -> None:
    connection = await asyncpg.connect(driver_url(url))
    await connection.execute("CREATE TABLE IF NOT EXISTS note (text text)")
    await connection.execute("INSERT INTO note VALUES ($1)", text)
    await connection.close()


async def notes(url: str) -> list[str]:
    connection = await asyncpg.connect(driver_url(url))
    rows = await connection.fetch("SELECT text FROM note")
    await connection.close()
    return [row["text"] for row in rows]


async def test_postgres_confirms_a_commit_only_once_it_is_on_disk(postgres_server: PostgresServer):
    async with postgres_server.connection() as connection:
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW synchronous_commit") == "on"


async def test_copies_of_a_database_are_independent(postgres_server: PostgresServer):
    async with postgres_server.database() as original:
        await create_note(original, "in both")
        name = original.rpartition("/")[2]

        async with postgres_server.database(template=name) as copy:
            await create_note(copy, "in the copy")

            assert await notes(copy) == ["in both", "in the copy"]
            assert await notes(original) == ["in both"]


async def test_databases_do_not_outlive_their_test(postgres_server: PostgresServer):
    async with postgres_server.database() as url:
        left_open = await asyncpg.connect(driver_url(url))

    await eventually(left_open.is_closed)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(driver_url(url))


async def test_a_crashed_postgres_starts_again_with_all_confirmed_commits(
    postgres_server: PostgresServer, empty_postgres_url: str
):
    if not postgres_server.stoppable:  # it was given, and others may use it
        with pytest.raises(NotOursError):
            await postgres_server.kill()
        return
    await create_note(empty_postgres_url, "confirmed")

    await postgres_server.kill()
    assert not postgres_server.running
    await postgres_server.start()

    assert await notes(empty_postgres_url) == ["confirmed"]


def test_a_migrated_sqlite_file_is_a_copy(sqlite_url: str, migrated_sqlite_file: Path):
    file = Path(sqlite_url.removeprefix("sqlite+aiosqlite:///"))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE note (text)")

    with closing(sqlite3.connect(migrated_sqlite_file)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    assert file != migrated_sqlite_file
    assert tables
    assert "note" not in tables


async def test_a_virtual_host_is_private_to_its_test(
    rabbitmq_server: RabbitmqServer, rabbitmq_url: str, rabbitmq_vhost: str
):
    async with rabbitmq_server.vhost() as other:
        connection = await aio_pika.connect(rabbitmq_url)
        async with connection:
            channel = await connection.channel()
            await channel.declare_queue("work", durable=True)

            assert await rabbitmq_server.http.queues(rabbitmq_vhost) == {"work": Depth(0, 0)}
            assert await rabbitmq_server.http.queues(other) == {}

    assert other not in await rabbitmq_server.http.vhosts()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_waiting_and_unanswered_messages_are_counted(
    rabbitmq_server: RabbitmqServer, rabbitmq_url: str, rabbitmq_vhost: str, kind: str
):
    async def counted() -> bool:
        return await rabbitmq_server.http.queues(rabbitmq_vhost) == {"work": Depth(2, 1)}

    connection = await aio_pika.connect(rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("work", durable=True, arguments={"x-queue-type": kind})
        for _ in range(3):
            await channel.default_exchange.publish(aio_pika.Message(b""), routing_key="work")
        await queue.get()

        await eventually(counted)


async def test_a_private_broker_that_was_closed_leaves_no_process_and_no_file():
    binaries = rabbitmq_binaries()
    if binaries is None:  # then none was started, and nothing can be left
        return
    instance = PrivateRabbitmq(binaries)
    server = RabbitmqServer(instance.url, instance.management_url, instance)
    await server.start()
    directory, pids = instance.directory, instance.pids
    assert directory.exists()

    server.close()

    assert not directory.exists()
    assert not [pid for pid in pids if process_exists(pid)]
    assert not await server.http.answers()


async def test_a_memory_alarm_ends_after_any_failure(rabbitmq_server: RabbitmqServer):
    async def fail_during_the_alarm() -> None:
        async with rabbitmq_server.memory_alarm():
            assert await rabbitmq_server._rings("mem_alarm")
            raise ZeroDivisionError

    if not rabbitmq_server.stoppable:  # it was given, and others may use it
        with pytest.raises(NotOursError):
            await fail_during_the_alarm()
        return
    with pytest.raises(ZeroDivisionError):
        await fail_during_the_alarm()

    assert not await rabbitmq_server._rings("mem_alarm")
