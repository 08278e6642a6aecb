import asyncio
import os
import sys
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

import outbox
from consumer.storage.tables import processed_messages
from outbox.audit_tables import audit_log
from outbox.database import migrate
from outbox.database.engine import create_engine
from outbox.errors import DatabaseUnavailable, SchemaMismatch
from outbox.tables import ordering_secret, outbox_compatibility
from tests.support.builders import an_upload
from tests.support.eventually import eventually
from tests.support.pages import REPOSITORY
from tests.support.roles import role

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
        "begun_deliveries",
        "failing_messages",
        "replies",
        "consumer_generations",
        "consumer_partitions",
        "consumer_members",
        "outbox_processes",
        "outbox_compatibility",
        "audit_log",
        "audit_head",
        "approvals",
        "ordering_secret",
        "outbox_targets",
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


ENTRY = {"run": "1" * 32, "actor": "me", "action": "drop", "source": "etl", "because": "b"}
COLUMNS = f"{', '.join(ENTRY)}, messages"
VALUES = f"{', '.join(map(repr, ENTRY.values()))}, 1"
INSERT_AGAIN = f"INSERT INTO audit_log (id, {COLUMNS}) VALUES (1, {VALUES}) ON CONFLICT (id) DO"
OF_BOTH = [
    "UPDATE audit_log SET actor = 'me'",
    "DELETE FROM audit_log",
    f"{INSERT_AGAIN} UPDATE SET actor = 'me'",
]
OF_SQLITE = [
    f"INSERT OR REPLACE INTO audit_log (id, {COLUMNS}) VALUES (1, {VALUES})",
    f"REPLACE INTO audit_log (id, {COLUMNS}) VALUES (1, {VALUES})",
    f"INSERT OR REPLACE INTO audit_log (id, {COLUMNS}) VALUES (-1, {VALUES})",
    f"INSERT OR REPLACE INTO audit_log (id, {COLUMNS}) VALUES (0, {VALUES})",
    "UPDATE OR REPLACE audit_log SET id = 1 WHERE id = 2",
    "UPDATE OR IGNORE audit_log SET actor = 'me'",
]
OF_POSTGRES = [
    "TRUNCATE audit_log",
    "TRUNCATE audit_log RESTART IDENTITY CASCADE",
    "SET LOCAL session_replication_role = replica; DELETE FROM audit_log",
    "SET LOCAL session_replication_role = replica; UPDATE audit_log SET actor = 'me'",
    "WITH gone AS (DELETE FROM audit_log RETURNING id) SELECT count(*) FROM gone",
]


async def test_the_audit_log_is_append_only(engine):
    is_sqlite = engine.dialect.name == "sqlite"
    async with engine.begin() as connection:
        for _ in range(2):
            entry = {**ENTRY, "run": UUID(ENTRY["run"]), "actor": "you", "messages": 1}
            await connection.execute(sa.insert(audit_log).values(entry))

    for misdeed in OF_BOTH + (OF_SQLITE if is_sqlite else OF_POSTGRES):
        first, _, second = misdeed.rpartition("; ")
        async with engine.connect() as connection:
            if first:
                await connection.exec_driver_sql(first)
            with pytest.raises(sa.exc.DBAPIError, match=r"only added|are positive"):
                await connection.exec_driver_sql(second)

    async with engine.connect() as connection:
        rows = (await connection.execute(sa.select(audit_log.c.id, audit_log.c.actor))).all()
        assert rows == [(1, "you"), (2, "you")]


async def test_each_database_has_a_secret_of_its_own(engine):
    async with engine.connect() as connection:
        (secret,) = await connection.scalars(sa.select(ordering_secret.c.secret))

    assert len(secret) == 32


async def test_a_database_without_tables_is_refused_with_the_remedy(empty_url):
    engine = create_engine(make_url(empty_url), pool_size=2, application_name="test")

    with pytest.raises(SchemaMismatch, match="relay migrate"):
        await migrate.verify(engine)
    await engine.dispose()


async def test_newer_tables_say_which_programs_may_work_on_them(engine):
    own = migrate.head()
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))

    found = await migrate.verify(engine)
    assert found.revision == "9999"
    assert migrate.newer(found) == (
        f"{found}, and this program is made for {own}: it may work on it, so that processes can be"
        " replaced one by one; install the newer version"
    )

    async with engine.begin() as connection:
        await connection.execute(sa.update(outbox_compatibility).values(oldest_revision="9998"))
    with pytest.raises(SchemaMismatch) as caught:
        await migrate.verify(engine)
    assert str(caught.value) == (
        f"{found} instead of {own}: a newer version of this program created it, and only programs"
        " from revision 9998 on may work on it"
    )

    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP TABLE outbox_compatibility"))
    with pytest.raises(SchemaMismatch, match=r"a newer version of this program created it$"):
        await migrate.verify(engine)


async def test_a_role_that_may_not_read_which_programs_are_served_gets_the_grant(postgres_url):
    await execute(postgres_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    async with role(postgres_url, f"GRANT SELECT ON {VERSION_TABLE}") as (_, url):
        engine = create_engine(make_url(url), pool_size=2, application_name="test")
        with pytest.raises(SchemaMismatch, match=r"GRANT SELECT ON outbox_compatibility$"):
            await migrate.verify(engine)
        await engine.dispose()


async def test_tables_of_this_version_need_no_warning(engine):
    assert migrate.newer(await migrate.verify(engine)) is None


async def test_the_sql_function_records_an_event_with_defaults(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    async with engine.begin() as connection:
        event_id = await connection.scalar(
            sa.text("""select outbox_add('health.file.stored', '{"bucket": "b"}')""")
        )
        row = (await connection.execute(sa.select(outbox.tables.outbox))).one()
    await engine.dispose()

    assert isinstance(event_id, UUID)
    assert event_id.version == 7
    assert row.event_id == event_id
    assert (row.type, row.routing_key) == ("health.file.stored", "health.file.stored")
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
    ("outbox_add('a', '{}', exchange => 'two words')", "exchange"),
    ("outbox_add('a', '{}', exchange => repeat('e', 201))", "exchange"),
    ("outbox_add('a', '{}', headers => '[]')", "headers"),
    ("outbox_add('a', '{}', not_before => 'infinity')", "not_before"),
    ("outbox_add('a', '{}', headers => '{\"x-death\": 1}')", "headers"),
    ("outbox_add('a', '{}', headers => '{\"source\": 1.5}')", "headers.source"),
    ("outbox_add('health.data.uploaded', '{\"bucket\": \"b\"}')", "record_type"),
    ("outbox_add('health.data.uploaded', '{\"record_type\": \"a b\"}')", "record_type"),
    ("outbox_add('health.data.uploaded', '{\"record_type\": 7}')", "record_type"),
    ("outbox_add('health.data.uploaded', '[]', 'a.b')", "payload"),
    ("outbox_add('health.data.uploaded', to_jsonb('{\"record_type\": \"A\"}'::text))", "payload"),
    (
        """outbox_add('health.data.uploaded',
            '{"record_type": "A", "processing_priority": "urgent"}', priority => 'low')""",
        "processing_priority",
    ),
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
        await connection.execute(sa.select(outbox.tables.outbox.c.id))

        with pytest.raises(DatabaseUnavailable, match="another session holds a lock"):
            await asyncio.to_thread(migrate.upgrade, empty_postgres_url)
    await engine.dispose()

    await asyncio.to_thread(migrate.upgrade, empty_postgres_url)


async def test_a_migration_that_ends_a_deadlock_says_that_it_changed_nothing(empty_postgres_url):
    """A process locks tables in another order: it holds one, and then wants the next."""
    await asyncio.to_thread(migrate.upgrade, empty_postgres_url, "0010")
    name = make_url(empty_postgres_url).database
    await execute(empty_postgres_url, f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '2s'")
    engine = create_engine(make_url(empty_postgres_url), pool_size=2, application_name="test")

    async def waits() -> bool:
        blocked = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        async with engine.connect() as connection:
            return bool(await connection.scalar(blocked))

    async with engine.connect() as process:
        await process.execute(sa.text("SET deadlock_timeout = '60s'"))
        await process.execute(sa.text("LOCK TABLE dead_letters IN ACCESS SHARE MODE"))
        migration = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_postgres_url))
        await eventually(waits, within=30)
        await process.execute(sa.text(f"LOCK TABLE {VERSION_TABLE} IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(DatabaseUnavailable, match=r"rolled back: run it again .*40P01"):
            await migration
    await engine.dispose()


async def test_processes_that_migrate_at_once_do_not_disturb_each_other(empty_postgres_url):
    children = [
        await asyncio.create_subprocess_exec(*MIGRATE, env=at(empty_postgres_url))
        for _ in range(3)
    ]

    assert [await child.wait() for child in children] == [0, 0, 0]


MIGRATE = (sys.executable, "-m", "relay", "migrate")


def at(url: str) -> dict[str, str]:
    return {**os.environ, "MQ_DATABASE_URL": url}


UNBOUNDED = {
    "attempts": "2147483647",
    "body": "CAST(repeat('x', 2000000) AS bytea)",
    "headers": """'{"source": 1e70000}'""",
    "routing_key": "repeat('k', 70000)",
    "correlation_id": "repeat('ü', 200)",
    "id": "-7",
    "type": "'last.one'",
}
UNBOUNDED_ON_SQLITE = {
    "attempts": "2147483647",
    "body": "zeroblob(2000000)",
    "headers": "json_object('source', hex(zeroblob(40000)))",
    "routing_key": "hex(zeroblob(35000))",
    "correlation_id": "hex(zeroblob(200))",
    "created_at": "'2025-01-01 00:00:00.5' || char(0) || 'x'",
    "id": "-7",
    "type": "'last.one'",
}


async def test_rows_without_bounds_are_set_aside_by_the_migration(empty_url):
    await asyncio.to_thread(migrate.upgrade, empty_url, "0006")
    is_sqlite = "sqlite" in empty_url
    for column, value in (UNBOUNDED_ON_SQLITE if is_sqlite else UNBOUNDED).items():
        row = {"event_id": f"'{uuid4().hex}'", "type": f"'{column}'", "routing_key": "'a'"}
        row |= {"idempotency_key": "'a'", "body": "x'7b7d'" if is_sqlite else "'{}'"}
        row[column] = value
        await execute(
            empty_url, f"INSERT INTO outbox ({', '.join(row)}) VALUES ({', '.join(row.values())})"
        )

    await asyncio.to_thread(migrate.upgrade, empty_url)

    engine = create_engine(make_url(empty_url), pool_size=1, application_name="test")
    async with engine.connect() as connection:
        rows = (await connection.execute(sa.select(outbox.tables.outbox))).mappings().all()
        dead = (await connection.execute(sa.select(outbox.tables.dead_letters))).mappings().all()
    await engine.dispose()
    assert {row["type"]: row["attempts"] for row in rows} == {
        "attempts": 1_000_000,
        "id": 0,
        "last.one": 0,
    }
    assert min(row["id"] for row in rows) > 0
    found = {row["type"]: row for row in dead}
    assert found.keys() == {"body", "headers", "routing_key", "correlation_id"} | (
        {"created_at"} if is_sqlite else set()
    )
    assert {(row["source"], row["reason"]) for row in dead} == {("relay", "malformed")}
    assert {str(UUID(row["message_id"])) == row["message_id"] for row in dead} == {True}
    assert len(found["body"]["body"]) == 2_000_000
    assert found["routing_key"]["routing_key"] is None
    assert len(found["correlation_id"]["correlation_id"]) == (400 if is_sqlite else 200)
    await asyncio.to_thread(migrate.downgrade, empty_url, "0006")
    await asyncio.to_thread(migrate.upgrade, empty_url)


def test_the_numbers_of_the_files_are_the_revisions_that_alembic_finds():
    scripts = ScriptDirectory(str(REPOSITORY / "migrations"))

    assert migrate.head() == scripts.get_current_head()
    assert migrate.known_revisions() == {each.revision for each in scripts.walk_revisions()}
