"""
Logical replication between two servers, as the page Copies of a database describes it.
"""

import asyncio
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox import Event, insert
from outbox.database import migrate
from tests.support import ordered
from tests.support.commands import CommandLine
from tests.support.dead_letters import a_dead_letter_of_the_relay, write_dead_letter
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.pages import REPOSITORY
from tests.support.roles import execute
from tests.support.servers import PostgresServer
from tests.support.servers.fleet import POSTGRES
from tests.support.servers.isolation import memory_or_disk
from tests.support.servers.private_postgres import PrivatePostgres

EFFECTS = "tests.support.effects:consumer"
ORDERED = "tests.support.ordered:consumer"
BECAUSE = ("--because", "a test")


@pytest.fixture
async def servers():
    """Give two servers, the first of which may publish its changes."""
    settings = {"wal_level": "logical"}
    instances = [
        PrivatePostgres(POSTGRES.programs(), settings=settings, parent=memory_or_disk())
        for _ in range(2)
    ]
    servers = [PostgresServer(instance.url, instance) for instance in instances]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        yield servers
    finally:
        for server in servers:
            server.close()


def libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def documented(words: str) -> str:
    """The statement of the page that begins with *words*."""
    page = (REPOSITORY / "docs" / "how-to" / "copy-a-database.md").read_text()
    found = re.search(rf"^ *({words}[^;]*);", page, re.MULTILINE)
    assert found, words
    return found[1]


async def copy_schema(source: str, target: str) -> None:
    programs = POSTGRES.programs()
    dump = await asyncio.create_subprocess_exec(
        *(programs / "pg_dump", "--schema-only", "--dbname", libpq(source)),
        stdout=asyncio.subprocess.PIPE,
    )
    schema, _ = await dump.communicate()
    restore = await asyncio.create_subprocess_exec(
        *(programs / "psql", "--quiet", "--set=ON_ERROR_STOP=1", libpq(target)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    await restore.communicate(schema)
    assert (dump.returncode, restore.returncode) == (0, 0)


def a_step(number: int) -> Event:
    payload = {"key": "k", "step": number, "fails": 1 if number == 1 else 0}
    return Event("test.step", payload, ordering_key="k")


async def record(deployment: Deployment, *events: Event) -> None:
    async with deployment.engine.begin() as connection:
        await connection.execute(insert(*events))


async def test_a_switch_over_keeps_order_and_effects_and_a_publication_refuses_no_statement(
    servers, embedded_broker_url, tmp_path: Path
):
    source, target = [server.url(await server.create_database()) for server in servers]
    await asyncio.to_thread(migrate.upgrade, source)
    await execute(source, documented("create publication"))
    async with Deployment(source, embedded_broker_url, tmp_path) as old:
        async with old.engine.begin() as connection:
            await ordered.create(connection)
        run = CommandLine(tmp_path, **old._env)
        await work_on_every_table(old, run)

        # These wait while the database moves.
        await record(old, *map(a_step, range(4, 7)))
        await copy_schema(source, target)
        await execute(target, subscription(source))

        async def is_complete() -> bool:
            ((count,),) = await execute(target, "SELECT count(*) FROM outbox")
            ((is_confirmed,),) = await execute(source, documented("select bool_and"))
            return count == 3 and bool(is_confirmed)

        await eventually(is_complete, within=30)
        early = await run.run("relay", "check", MQ_DATABASE_URL=target)
        assert early.code == 2
        assert "outbox: the counter of ids is behind the rows" in early.err

        await execute(target, documented("drop subscription"), documented("select outbox_repair"))

    directory = tmp_path / "new"
    directory.mkdir()
    async with Deployment(target, embedded_broker_url, directory) as new:
        run = CommandLine(directory, **new._env)
        for command in (["relay"], ["consumer", EFFECTS], ["consumer", ORDERED]):
            done = await run.run(command[0], "check", *command[1:])
            assert done.code == 0, done.err
        assert (await run.run("relay", "topology", "--adopt", *BECAUSE)).code == 0
        verified = await run.run("relay", "audit", "verify")
        assert (verified.code, "\n0 rows" in f"\n{verified.out}") == (0, False)
        await record(new, *map(a_step, range(7, 9)))
        await new.relay()
        await new.ordered_consumer()

        async def steps() -> list[int]:
            return [row["step"] for row in await new.rows(ordered.steps)]

        async def is_done() -> bool:
            return 8 in await steps()

        await eventually(is_done, within=20)
        assert [step for step in await steps() if step > 1] == list(range(2, 9))


def subscription(source: str) -> str:
    url = make_url(source)
    address = f"host={url.host} port={url.port} dbname={url.database} user={url.username}"
    statement = documented("create subscription")
    return re.sub("'.*'", f"'{address} password={url.password}'", statement)


async def work_on_every_table(deployment: Deployment, run: CommandLine) -> None:
    """Let processes and commands execute all their statements, and the documented ones."""
    relay = await deployment.relay()
    consumers = [await deployment.consumer(), await deployment.ordered_consumer()]
    kinds = ("happened", "fails.once", "fails.always")
    await record(deployment, *(Event(f"test.{kind}", {}) for kind in kinds))
    await record(deployment, *map(a_step, range(1, 4)))  # the first is parked, and so all
    await record(deployment, Event("nowhere", {}))  # is postponed

    async def is_done() -> bool:
        steps = {row["step"] for row in await deployment.rows(ordered.steps)}
        reasons = {row["reason"] for row in await deployment.dead()}
        return steps == {1, 2, 3} and "retries_exhausted" in reasons

    await eventually(is_done, within=30)
    for process in (relay, *consumers):
        assert await process.terminate() == 0
    await write_dead_letter(deployment.engine, a_dead_letter_of_the_relay())
    for command in (
        ("relay", "dead", "replay", "--all", *BECAUSE),
        ("consumer", "dead", "drop", EFFECTS, "--all", *BECAUSE),
        ("consumer", "purge", EFFECTS),
        ("relay", "topology", "--adopt", *BECAUSE),
        ("relay", "migrate"),
    ):
        done = await run.run(*command)
        assert done.code == 0, (command, done.err)
    secret = "uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())"
    async with deployment.engine.begin() as connection:
        before = await connection.scalar(sa.text("SELECT secret FROM ordering_secret"))
        for statement in (
            f"UPDATE ordering_secret SET secret = {secret}",
            "UPDATE processed_messages SET attempts = attempts",
            "UPDATE parked_messages SET attempts = attempts",
            "UPDATE dead_letters SET attempts = attempts",
            f"UPDATE {migrate.VERSION_TABLE} SET version_num = version_num",
            "DELETE FROM outbox",
        ):
            await connection.exec_driver_sql(statement)
        assert await connection.scalar(sa.text("SELECT secret FROM ordering_secret")) != before
