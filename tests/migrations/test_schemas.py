"""
Which schema or file a migration changes, and tables of other programs that are in its way.
"""

import asyncio
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from outbox.database import migrate
from tests.support.commands import CommandLine
from tests.support.roles import execute, role

HEAD = migrate.head()
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = '{}'::regnamespace AND relkind = 'r'"


@pytest.fixture
def run(tmp_path) -> CommandLine:
    return CommandLine(tmp_path, MQ_METRICS_PORT="0")


async def tables(url: str, schema: str) -> set[str]:
    return {row[0] for row in await execute(url, TABLES.format(schema))}


async def test_a_migration_names_its_schema_and_never_takes_another_one(run, postgres_url):
    """The tables are in public, and a role has another schema before it."""
    ours = await tables(postgres_url, "public")
    async with role(postgres_url, "GRANT SELECT ON ALL TABLES IN SCHEMA public") as (name, url):
        await execute(
            postgres_url,
            f"CREATE SCHEMA {name} AUTHORIZATION {name}",
            f"ALTER ROLE {name} SET search_path = {name}, public",
        )

        done = await run.run("relay", "migrate", MQ_DATABASE_URL=url)
        assert done.code == 2
        [line] = done.err.splitlines()
        assert line.startswith(f"error: search_path begins with schema {name}, and the tables are")
        assert await tables(postgres_url, name) == set()

        done = await run.run("relay", "migrate", "--schema", name, MQ_DATABASE_URL=url)
        assert (done.code, done.out) == (0, f"schema {name} is at revision {HEAD}\n")
        assert await tables(postgres_url, name) == ours

        for _ in range(2):  # now without a doubt
            done = await run.run("relay", "migrate", MQ_DATABASE_URL=url)
            assert (done.code, done.out) == (0, f"schema {name} is at revision {HEAD}\n")
        assert (await run.run("relay", "topology", MQ_DATABASE_URL=url)).code == 0
        checked = await run.run("relay", "check", MQ_DATABASE_URL=url)
        assert f"ok: schema {name} is at revision {HEAD}\n" in checked.out

    done = await run.run("relay", "migrate", "--schema", "public", MQ_DATABASE_URL=postgres_url)
    assert (done.code, done.out) == (0, f"schema public is at revision {HEAD}\n")


async def test_tables_that_are_in_two_schemas_are_refused(run, postgres_url):
    await execute(
        postgres_url,
        "CREATE SCHEMA other",
        "CREATE TABLE other.outbox (LIKE public.outbox)",
        f'ALTER DATABASE "{make_url(postgres_url).database}" SET search_path = other, public',
    )
    for command in (["relay", "check"], ["consumer", "check", "tests.support.effects:consumer"]):
        done = await run.run(*command, MQ_DATABASE_URL=postgres_url)

        assert done.code == 2
        assert "outbox: is in schema other, and outbox_relay_version in schema public" in done.err


async def test_a_schema_that_is_set_is_created_and_only_its_tables_are_used(run, postgres_url):
    """The tables in public are never taken for those of the schema that is set."""
    ours = await tables(postgres_url, "public")
    name, quoted = 'My "schema" 50%:s', '"My ""schema"" 50%:s"'
    settings = {"MQ_DATABASE_URL": postgres_url, "MQ_DATABASE_SCHEMA": name}
    done = await run.run("relay", "status", **settings)
    assert done.code == 2
    assert f"the tables are missing in schema {name}: run `relay migrate`" in done.err

    for _ in range(2):
        done = await run.run("relay", "migrate", **settings)
        assert (done.code, done.out) == (0, f"schema {name} is at revision {HEAD}\n")
    assert await tables(postgres_url, quoted) == ours
    for command in (["relay", "topology"], ["relay", "check"]):
        done = await run.run(*command, **settings)
        assert done.code == 0
    assert f"schema {name} is at revision {HEAD}\n" in done.out

    pooled = settings | {"MQ_DATABASE_URL": f"{postgres_url}?pgbouncer=1"}
    for command in (["relay", "migrate"], ["relay", "check"]):
        done = await run.run(*command, **pooled)
        assert done.code == 2
        assert "search_path" in done.err
        assert "Traceback" not in done.err
    await execute(
        postgres_url,
        f'ALTER DATABASE "{make_url(postgres_url).database}" SET search_path = {quoted}',
    )
    assert (await run.run("relay", "check", **pooled)).code == 0


async def test_a_schema_that_the_role_may_not_create_or_use_is_refused(run, empty_postgres_url):
    async with role(empty_postgres_url) as (name, url):
        settings = {"MQ_DATABASE_URL": url, "MQ_DATABASE_SCHEMA": "theirs"}
        for command in (["relay", "migrate"], ["relay", "migrate", "--schema", "theirs"]):
            done = await run.run(*command, **settings)
            assert done.code == 2
            [line] = done.err.splitlines()
            assert line.endswith(f'not create it: CREATE SCHEMA "theirs" AUTHORIZATION {name}')

        await asyncio.to_thread(migrate.upgrade, empty_postgres_url, schema="theirs")
        done = await run.run("relay", "migrate", **settings)
        assert (done.code, done.err) == (
            2,
            f'error: no privilege: GRANT USAGE, CREATE ON SCHEMA "theirs" TO {name}\n',
        )
        done = await run.run("relay", "check", **settings)
        assert done.code == 2
        assert 'GRANT USAGE ON SCHEMA "theirs"' in done.err

    done = await run.run("relay", "migrate", "--schema", "nope")
    assert done.code == 2
    assert done.err.endswith("error: --schema: a SQLite file has no schemas\n")
    done = await run.run("relay", "migrate", "--schema", "pg_mq", **settings)
    assert (done.code, "error: --schema: must not be a name that" in done.err) == (2, True)


@pytest.mark.parametrize("name", ["outbox", "dead_letters", "audit_log", "outbox_targets"])
async def test_a_table_of_another_program_is_refused_before_any_change(
    run, empty_postgres_url, tmp_path, name
):
    await execute(empty_postgres_url, f"CREATE TABLE {name} (theirs text)")
    done = await run.run("relay", "migrate", MQ_DATABASE_URL=empty_postgres_url)

    assert done.code == 2
    assert f"schema public has {name} already, which another program created" in done.err
    assert await tables(empty_postgres_url, "public") == {name}

    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database:
        database.execute(f"CREATE TABLE {name} (theirs text)")
        done = await run.run("relay", "migrate")
        assert done.code == 2
        assert f"the file has {name} already, which another program created" in done.err
        made = database.execute("SELECT name FROM sqlite_master").fetchall()
        assert made == [(name,)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW parked_messages AS SELECT 1 AS one",
        "CREATE INDEX outbox_ready ON theirs (one)",
        "CREATE FUNCTION outbox_wake_relay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    ],
)
async def test_other_objects_of_another_program_are_refused_and_nothing_is_half_made(
    run, empty_postgres_url, statement
):
    await execute(empty_postgres_url, "CREATE TABLE theirs (one int)", statement)

    done = await run.run("relay", "migrate", MQ_DATABASE_URL=empty_postgres_url)

    assert done.code == 2
    assert "another program" in done.err
    assert "Traceback" not in done.err
    assert await tables(empty_postgres_url, "public") == {"theirs"}


async def test_a_schema_of_a_newer_version_is_a_line_and_status_2(run, postgres_url, tmp_path):
    newer = f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"
    oldest = "UPDATE outbox_compatibility SET oldest_revision = '9999'"
    await execute(postgres_url, newer)
    assert (await run.run("relay", "topology", MQ_DATABASE_URL=postgres_url)).code == 0
    served = await run.run("relay", "check", MQ_DATABASE_URL=postgres_url)
    assert served.code == 0
    assert (
        f"warning: schema public is at revision 9999, and this program is made for {HEAD}: it may"
        " work on it"
    ) in served.out + served.err
    migrated = await run.run("relay", "migrate", MQ_DATABASE_URL=postgres_url)
    assert (migrated.code, "which a newer version" in migrated.err) == (2, True)

    await execute(postgres_url, oldest)
    assert (await run.run("relay", "migrate")).code == 0
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database:
        database.execute(newer)
        database.execute(oldest)
        database.commit()

    for url, place in (({"MQ_DATABASE_URL": postgres_url}, "schema public"), ({}, "the schema")):
        for command in (["relay", "migrate"], ["relay", "check"], ["relay", "run"]):
            done = await run.run(*command, **url)
            assert done.code == 2
            assert f"{place} is at revision 9999" in done.out + done.err
            assert "newer version" in done.out + done.err
            assert "Traceback" not in done.err


async def test_a_migration_names_the_revision_that_it_found_or_made(run, postgres_url):
    for revision, made in (("0003", HEAD), (HEAD, HEAD), ("head", HEAD)):  # never down
        done = await run.run("relay", "migrate", revision, MQ_DATABASE_URL=postgres_url)
        assert (done.code, done.out) == (0, f"schema public is at revision {made}\n")

    done = await run.run("relay", "migrate", "0004")
    assert (done.code, done.out) == (0, "the schema is at revision 0004\n")


async def test_roles_that_work_on_the_tables_need_no_new_grant_after_an_upgrade(
    empty_postgres_url,
):
    await asyncio.to_thread(migrate.upgrade, empty_postgres_url, "0006")
    async with role(
        empty_postgres_url,
        "GRANT SELECT, UPDATE, DELETE ON outbox",
        "GRANT SELECT, INSERT ON dead_letters",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON processed_messages",
        "GRANT SELECT ON outbox_relay_version",
    ) as (name, _):
        await asyncio.to_thread(migrate.upgrade, empty_postgres_url)

        granted = await execute(
            empty_postgres_url,
            f"""SELECT has_table_privilege('{name}', 'outbox_targets', 'SELECT'),
            has_table_privilege('{name}', 'outbox_targets', 'INSERT'),
            has_table_privilege('{name}', 'outbox_targets', 'DELETE'),
            has_sequence_privilege('{name}', 'outbox_id_seq', 'SELECT'),
            has_sequence_privilege('{name}', 'dead_letters_id_seq', 'SELECT'),
            has_sequence_privilege('{name}', 'audit_log_id_seq', 'SELECT'),
            has_table_privilege('{name}', 'begun_deliveries', 'DELETE'),
            has_table_privilege('{name}', 'begun_deliveries', 'TRUNCATE'),
            has_table_privilege('{name}', 'failing_messages', 'DELETE'),
            has_table_privilege('{name}', 'consumer_partitions', 'DELETE'),
            has_table_privilege('{name}', 'outbox_processes', 'UPDATE'),
            has_table_privilege('{name}', 'outbox_compatibility', 'SELECT')""",
        )
        assert list(granted[0]) == [
            *[True, True, False],
            *[True, True, False],
            *[True, False],
            *[True, True, True, True],
        ]
