import asyncio
import os
import sys
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import make_url

import outbox
from consumer.storage.tables import processed_messages
from outbox.database import migrate
from outbox.database.engine import create_engine
from outbox.errors import SchemaMismatch
from outbox.tables import audit_log, ordering_secret
from tests.support.builders import an_upload

assert processed_messages.metadata is outbox.metadata


@pytest.fixture
def empty_sqlite_url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'new.db'}"


@pytest.fixture(params=["empty_sqlite_url", "empty_postgres_url"])
def empty_url(request) -> str:
    return request.getfixturevalue(request.param)


async def tables(url: str) -> set[str]:
    engine = create_engine(make_url(url), pool_size=2, application_name="test")
    try:
        async with engine.connect() as connection:
            return set(await connection.run_sync(lambda c: sa.inspect(c).get_table_names()))
    finally:
        await engine.dispose()


async def test_the_schema_goes_up_down_and_up_again(empty_url):
    names = {
        "outbox",
        "dead_letters",
        "processed_messages",
        "parked_messages",
        "audit_log",
        "ordering_secret",
        "outbox_relay_version",
    }

    await asyncio.to_thread(migrate.upgrade, empty_url)
    assert await tables(empty_url) == names
    await asyncio.to_thread(migrate.downgrade, empty_url, "base")
    assert await tables(empty_url) == {"outbox_relay_version"}
    await asyncio.to_thread(migrate.upgrade, empty_url)
    assert await tables(empty_url) == names


async def test_the_migrated_schema_is_the_declared_one(engine):
    def differences(connection: sa.Connection) -> list:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "include_name": lambda name, *_: name != VERSION_TABLE},
        )
        return compare_metadata(context, outbox.metadata)

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


VERSION_TABLE = migrate.VERSION_TABLE


async def test_a_migrated_database_is_accepted(engine):
    await migrate.verify(engine)


@pytest.mark.parametrize("misdeed", ["UPDATE audit_log SET actor = 'me'", "DELETE FROM audit_log"])
async def test_the_audit_log_is_append_only(engine, misdeed):
    entry = {"run": uuid4(), "actor": "a", "action": "drop", "source": "etl", "because": "b"}
    async with engine.begin() as connection:
        await connection.execute(sa.insert(audit_log).values(messages=1, **entry))

    with pytest.raises(sa.exc.DBAPIError, match="only added"):
        async with engine.begin() as connection:
            await connection.execute(sa.text(misdeed))


async def test_each_database_has_a_secret_of_its_own(engine):
    async with engine.connect() as connection:
        (secret,) = await connection.scalars(sa.select(ordering_secret.c.secret))

    assert len(secret) == 32


async def test_a_database_without_tables_is_refused_with_the_remedy(empty_url):
    engine = create_engine(make_url(empty_url), pool_size=2, application_name="test")

    with pytest.raises(SchemaMismatch, match="relay migrate"):
        await migrate.verify(engine)
    await engine.dispose()


async def test_a_schema_of_another_version_is_refused(engine):
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))

    with pytest.raises(SchemaMismatch, match="9999"):
        await migrate.verify(engine)


async def test_the_sql_function_records_an_event_with_defaults(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    async with engine.begin() as connection:
        event_id = await connection.scalar(
            sa.text("""select outbox_add('health.data.uploaded', '{"bucket": "b"}')""")
        )
        row = (await connection.execute(sa.select(outbox.tables.outbox))).one()
    await engine.dispose()

    assert isinstance(event_id, UUID)
    assert event_id.version == 7
    assert row.event_id == event_id
    assert (row.type, row.routing_key) == ("health.data.uploaded", "health.data.uploaded")
    assert (row.idempotency_key, row.body) == (str(event_id), b'{"bucket": "b"}')


async def test_the_sql_function_routes_uploads_as_python_does(postgres_url):
    upload = an_upload(record_type="HeartRate", processing_priority="high")
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    async with engine.begin() as connection:
        await connection.execute(
            sa.text("select outbox_add('health.data.uploaded', cast(:body as jsonb))"),
            {"body": upload.model_dump_json()},
        )
        row = (await connection.execute(sa.select(outbox.tables.outbox))).one()
    await engine.dispose()

    assert (row.routing_key, row.priority) == (upload.to_event().routing_key, "high")


async def test_the_sql_function_finds_its_table_with_any_search_path(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    async with engine.begin() as connection:
        for statement in (
            "CREATE TEMP TABLE outbox (LIKE public.outbox)",
            "SELECT outbox_add('a', '{}')",
            "SET LOCAL search_path = pg_catalog",
            "SELECT public.outbox_add('b', '{}')",
        ):
            await connection.execute(sa.text(statement))
        types = await connection.scalars(sa.text("SELECT type FROM public.outbox ORDER BY id"))
        assert list(types) == ["a", "b"]
    await engine.dispose()


REFUSED_CALLS = [
    ("outbox_add('two words', '{}')", "type"),
    ("outbox_add(NULL, '{}')", "type"),
    ("outbox_add('a', NULL)", "payload"),
    ("outbox_add('a', to_jsonb(repeat('x', 1048576)))", "payload"),
    ("outbox_add('a', '{}', priority => 'urgent')", "priority"),
    ("outbox_add('a', '{}', ordering_key => '')", "ordering_key"),
    ("outbox_add('a', '{}', routing_key => repeat('k', 256))", "routing_key"),
    ("outbox_add('a', '{}', idempotency_key => 'a b')", "idempotency_key"),
    ("outbox_add('a', '{}', headers => '[]')", "headers"),
    ("outbox_add('a', '{}', not_before => 'infinity')", "not_before"),
    ("""outbox_add('health.data.uploaded', '{"record_type": "a b"}')""", "routing_key"),
]


async def test_the_sql_function_refuses_the_same_values_as_python(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    for call, field in REFUSED_CALLS:
        async with engine.connect() as connection:
            with pytest.raises(sa.exc.IntegrityError, match=field):
                await connection.execute(sa.text(f"select {call}"))
    await engine.dispose()


async def execute(url: str, *statements: str) -> sa.Row | None:
    """Execute *statements* in a transaction; the first row of the last one, if it has any."""
    engine = create_engine(make_url(url), pool_size=1, application_name="test")
    try:
        async with engine.begin() as connection:
            for statement in statements:
                result = await connection.exec_driver_sql(statement)
            return result.first() if result.returns_rows else None
    finally:
        await engine.dispose()


UNREADABLE = {
    "postgresql": {"created_at": "'infinity'"},
    "sqlite": {
        "created_at": "'2025-02-30 00:00:00'",
        "occurred_at": "'2025-19-39 29:59:xx'",
        "not_before": "'2025-01-01 00:00:abc'",
        "attempts": "1.5",
    },
}


async def test_rows_that_no_relay_could_read_are_readable_after_the_migration(empty_url):
    await asyncio.to_thread(migrate.upgrade, empty_url, "0004")
    values = UNREADABLE[make_url(empty_url).get_backend_name()]
    row = {"event_id": f"'{uuid4().hex}'", "type": "'a'", "routing_key": "'a'", **values}
    row |= {"idempotency_key": "'a'", "body": "CAST('{}' AS bytea)"}
    if "sqlite" in empty_url:
        row["body"] = "x'7b7d'"
    await execute(
        empty_url, f"INSERT INTO outbox ({', '.join(row)}) VALUES ({', '.join(row.values())})"
    )

    for _ in range(2):  # a migration that was interrupted is run again
        await asyncio.to_thread(migrate.upgrade, empty_url, "0005")
        if "sqlite" in empty_url:
            break
        await execute(empty_url, f"UPDATE {VERSION_TABLE} SET version_num = '0004'")
    await asyncio.to_thread(migrate.upgrade, empty_url)

    engine = create_engine(make_url(empty_url), pool_size=1, application_name="test")
    async with engine.connect() as connection:
        (found,) = await connection.execute(sa.select(outbox.tables.outbox))
    await engine.dispose()
    assert found.created_at.year < 9999
    assert (found.not_before, found.attempts) == (None, 0)


async def test_the_secret_of_ordering_keys_survives_its_renaming(empty_url):
    await asyncio.to_thread(migrate.upgrade, empty_url, "0005")
    before = await execute(empty_url, "SELECT salt FROM ordering_salt")

    await asyncio.to_thread(migrate.upgrade, empty_url)
    assert await execute(empty_url, "SELECT secret FROM ordering_secret") == before

    await asyncio.to_thread(migrate.downgrade, empty_url, "0005")
    assert await execute(empty_url, "SELECT salt FROM ordering_salt") == before


async def test_a_constraint_is_validated_while_others_write(empty_postgres_url):
    """It holds one short lock; the statements to run by hand say so too."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "upgrade", "0004:0005", "--sql"),
        env=at(empty_postgres_url),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await child.communicate()
    words = ("SET LOCAL lock_timeout", "ADD CONSTRAINT", "NOT VALID", "COMMIT", "UPDATE outbox")
    places = [printed.decode().find(word) for word in (*words, "VALIDATE CONSTRAINT")]
    assert -1 not in places
    assert places == sorted(places)

    await asyncio.to_thread(migrate.upgrade, empty_postgres_url)
    query = "SELECT convalidated FROM pg_constraint WHERE conname = 'outbox_created_at_check'"
    assert await execute(empty_postgres_url, query) == (True,)
    await asyncio.to_thread(migrate.downgrade, empty_postgres_url, "0004")
    assert await execute(empty_postgres_url, query) is None


async def test_a_migration_that_gets_no_lock_fails_instead_of_blocking_all(empty_postgres_url):
    await asyncio.to_thread(migrate.upgrade, empty_postgres_url, "0004")
    engine = create_engine(make_url(empty_postgres_url), pool_size=1, application_name="test")
    async with engine.connect() as connection:
        await connection.execute(sa.select(outbox.tables.outbox))

        with pytest.raises(sa.exc.DBAPIError, match="lock timeout"):
            await asyncio.to_thread(migrate.upgrade, empty_postgres_url)
    await engine.dispose()

    await asyncio.to_thread(migrate.upgrade, empty_postgres_url)


async def test_processes_that_migrate_at_once_do_not_disturb_each_other(empty_postgres_url):
    children = [
        await asyncio.create_subprocess_exec(*MIGRATE, env=at(empty_postgres_url))
        for _ in range(3)
    ]

    assert [await child.wait() for child in children] == [0, 0, 0]


MIGRATE = (sys.executable, "-m", "relay", "migrate")


def at(url: str) -> dict[str, str]:
    return {**os.environ, "MQ_DATABASE_URL": url}
