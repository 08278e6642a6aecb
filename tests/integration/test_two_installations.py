"""
Two installations in one database, in two schemas: neither sees the other's rows.
"""

import asyncio
from contextlib import AsyncExitStack

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import outbox
from outbox.database import migrate
from outbox.database.engine import create_engine
from outbox.errors import ConfigurationError
from relay.storage.postgres_notify import PostgresWakeup
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.roles import execute

SECOND = 'The second "%s:one"'
QUOTED = '"The second ""%s:one"""'


@pytest.fixture
async def two_schemas(postgres_url: str) -> str:
    """Give the URL of a database with an installation in `public`, and one in `SECOND`."""
    await asyncio.to_thread(migrate.upgrade, postgres_url, schema=SECOND)
    return postgres_url


@pytest.fixture
def in_second():
    """Let this process record in the schema `SECOND`."""
    outbox.use_schema(SECOND)
    yield
    outbox.use_schema(None)


async def types(url: str, schema: str) -> list[str]:
    rows = await execute(url, f"SELECT type FROM {schema}.outbox ORDER BY id")
    return [row[0] for row in rows]


async def test_relays_and_consumers_of_two_schemas_do_not_disturb_each_other(
    two_schemas, rabbitmq_url, tmp_path
):
    """The consumers have one name, and their handlers write to one table outside the schemas."""
    theirs = {
        "MQ_DATABASE_SCHEMA": SECOND,
        "MQ_MAIN_EXCHANGE": "theirs",
        "MQ_DLX_EXCHANGE": "their_dlx",
        "MQ_PROCESSING_QUEUE": "their_queue",
    }
    async with AsyncExitStack() as stack:
        deployments = []
        for name, settings in {"first": {}, "second": theirs}.items():
            (tmp_path / name).mkdir()
            deployment = Deployment(
                two_schemas, rabbitmq_url, tmp_path / name, **settings, MQ_POLL_MAX_SECONDS="60"
            )
            deployments.append(await stack.enter_async_context(deployment))
        for deployment in deployments:
            await deployment.relay()
            await deployment.consumer()
        first, second = deployments

        events = []
        for deployment in deployments * 2:
            events.append(an_event(ordering_key="of-both"))
            async with deployment.engine.begin() as connection:
                await connection.execute(outbox.insert(events[-1]))
            await first.applies(len(events))

        assert set(await first.applied()) == {event.id for event in events}
        for schema, at in (("public", 0), (QUOTED, 1)):
            rows = await execute(
                two_schemas, f"SELECT message_id FROM {schema}.processed_messages"
            )
            assert {row[0] for row in rows} == {event.id for event in events[at::2]}
        for module, arguments in (
            ("relay", ("check",)),
            ("relay", ("status",)),
            ("relay", ("dead", "list")),
            ("consumer", ("check", "tests.support.effects:consumer")),
            ("consumer", ("purge", "tests.support.effects:consumer")),
        ):
            assert (await second.run(module, *arguments)).code == 0, arguments


async def test_a_row_of_another_schema_wakes_no_relay(two_schemas):
    rung = {"public": 0, SECOND: 0}

    def ring(schema: str) -> None:
        rung[schema] += 1

    async with AsyncExitStack() as stack:
        engines = {}
        for schema in rung:
            engines[schema] = create_engine(
                make_url(two_schemas), pool_size=2, application_name="test", schema=schema
            )
            stack.push_async_callback(engines[schema].dispose)
            wakeup = PostgresWakeup(engines[schema], notify=lambda schema=schema: ring(schema))
            stack.push_async_callback(wakeup.close)
            assert await wakeup.arm()

        async with engines[SECOND].begin() as connection:
            await connection.execute(outbox.insert(an_event()))
        await eventually(lambda: rung[SECOND] == 1)
        async with engines["public"].begin() as connection:
            await connection.execute(outbox.insert(an_event()))
        await eventually(lambda: rung["public"] > 0)

    assert rung == {"public": 1, SECOND: 1}


async def test_a_migration_does_not_wait_for_one_of_another_schema(postgres_url):
    """The locks are those of a process that migrates `public`, and of one of an older version."""
    of_public = (
        "SELECT pg_advisory_xact_lock_shared(7206814771),"
        " pg_advisory_xact_lock(1720681477, hashtext('public'))"
    )
    of_all = "SELECT pg_advisory_xact_lock(7206814771)"
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    async with engine.begin() as migration:
        await migration.execute(sa.text(of_public))
        await asyncio.to_thread(migrate.upgrade, postgres_url, schema=SECOND)

    async with engine.begin() as migration:
        await migration.execute(sa.text(of_all))
        waiting = asyncio.create_task(
            asyncio.to_thread(migrate.upgrade, postgres_url, schema="third")
        )
        await eventually(lambda: waits_for_lock(postgres_url))
    assert (await waiting).schema == "third"
    await engine.dispose()


async def waits_for_lock(url: str) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
    return (await execute(url, f"{waiting} AND datname = current_database()"))[0][0] == 1


@pytest.mark.usefixtures("in_second")
async def test_a_producer_records_in_the_schema_that_it_names(two_schemas):
    """Whatever the search_path is, and whatever tenants the application has."""
    url = make_url(two_schemas)
    tenants = {"schema_translate_map": {None: "no_tenant"}}
    engine = create_engine(url, pool_size=2, application_name="test").execution_options(**tenants)
    async with AsyncSession(engine) as session, session.begin():
        outbox.add(session, an_event(type="async.session"))
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event(type="async.core"), an_event(type="two")))
    await engine.dispose()

    sync_engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    with Session(sync_engine) as session, session.begin():
        outbox.add(session, an_event(type="session"))
    # As many engines have it: the only engine of a session is that of the outbox.
    with Session(binds={sa.Table("own", sa.MetaData()): sync_engine}) as session, session.begin():
        outbox.add(session, an_event(type="binds"))
    with sync_engine.begin() as connection:
        connection.execute(outbox.insert(an_event(type="core")))
    sync_engine.dispose()

    expected = ["async.session", "async.core", "two", "session", "binds", "core"]
    assert await types(two_schemas, QUOTED) == expected
    assert await types(two_schemas, "public") == []


async def test_without_a_schema_the_map_of_the_application_chooses_the_outbox(two_schemas):
    engine = create_engine(make_url(two_schemas), pool_size=2, application_name="test")
    tenants = engine.execution_options(schema_translate_map={None: SECOND})
    async with AsyncSession(tenants) as session, session.begin():
        outbox.add(session, an_event(type="mapped"))
    async with AsyncSession(engine) as session, session.begin():
        outbox.add(session, an_event(type="by.search.path"))
    await engine.dispose()

    assert await types(two_schemas, QUOTED) == ["mapped"]
    assert await types(two_schemas, "public") == ["by.search.path"]


async def test_outbox_add_writes_to_its_own_schema_with_any_search_path(two_schemas):
    for path in ("public", "pg_catalog", QUOTED, "''"):
        await execute(
            two_schemas,
            f"SET search_path = {path}; SELECT {QUOTED}.outbox_add('from.sql', '{{}}')",
            "SELECT 1",
        )

    assert await types(two_schemas, QUOTED) == ["from.sql"] * 4
    assert await types(two_schemas, "public") == []


@pytest.mark.parametrize("name", ["", "pg_mq", "$user", "information_schema", "m" * 64, "a\n", 7])
def test_a_name_that_no_schema_can_have_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"^use_schema: must "):
        outbox.use_schema(name)
