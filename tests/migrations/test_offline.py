"""
Migrations as SQL that people run by hand, and migrations of applications beside ours.
"""

import asyncio
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from outbox.database import migrate
from tests.support.commands import CommandLine
from tests.support.processes import REPOSITORY
from tests.support.roles import execute
from tests.support.servers.fleet import POSTGRES

CONFIG = str(REPOSITORY / "alembic.ini")

# All that a migration makes in a schema; names of constraints in the order of their creation.
OBJECTS = """
SELECT 'column', table_name, column_name, data_type, coalesce(column_default, ''), is_nullable,
    is_identity
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef, '', '', '' FROM pg_indexes
WHERE schemaname = 'public'
UNION ALL
SELECT 'function', proname, prosrc, coalesce(array_to_string(proconfig, ','), ''), '', '', ''
FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), tgenabled::text, '', ''
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'options', relname, coalesce(array_to_string(reloptions, ','), ''), '', '', '', ''
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
UNION ALL
SELECT 'revision', version_num, '', '', '', '', '' FROM outbox_relay_version
ORDER BY 1, 2, 3, 4
"""


@pytest.fixture
def run(tmp_path) -> CommandLine:
    return CommandLine(tmp_path)


async def printed(run: CommandLine, url: str, *steps: str) -> str:
    done = await run.run(
        "alembic", "-c", CONFIG, *(steps or ("upgrade", "head")), "--sql", MQ_DATABASE_URL=url
    )
    assert done.code == 0, done.err
    return done.out


async def psql(url: str, script: str) -> None:
    program = POSTGRES.programs() / "psql"
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    child = await asyncio.create_subprocess_exec(
        *(program, "--quiet", "--set=ON_ERROR_STOP=1", address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, problems = await child.communicate(script.encode())
    assert child.returncode == 0, problems.decode()


async def test_the_printed_statements_make_the_same_tables_on_postgres(
    run, postgres_url, empty_postgres_url
):
    await psql(empty_postgres_url, await printed(run, empty_postgres_url))

    assert await execute(empty_postgres_url, OBJECTS) == await execute(postgres_url, OBJECTS)
    secrets = [
        (await execute(url, "SELECT secret FROM ordering_secret"))[0][0]
        for url in (empty_postgres_url, postgres_url)
    ]
    assert [len(secret) for secret in secrets] == [32, 32]
    assert secrets[0] != secrets[1]
    await execute(empty_postgres_url, "SELECT outbox_add('a', '{}', ordering_key => 'k')")
    assert (await run.run("relay", "status", MQ_DATABASE_URL=empty_postgres_url)).code == 0

    await psql(
        empty_postgres_url,
        await printed(run, empty_postgres_url, "downgrade", f"{migrate.head()}:base"),
    )
    remaining = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    names = {row[0] for row in await execute(empty_postgres_url, remaining)}
    assert names == {migrate.VERSION_TABLE, f"{migrate.VERSION_TABLE}_pkc"}


async def test_the_printed_statements_make_the_same_tables_on_sqlite(
    run, migrated_sqlite_file, tmp_path
):
    file = tmp_path / "by_hand.db"
    script = await printed(run, f"sqlite:///{file}")
    objects = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
    with (
        closing(sqlite3.connect(file)) as by_hand,
        closing(sqlite3.connect(migrated_sqlite_file)) as online,
    ):
        by_hand.executescript(script)

        found, expected = (
            [tuple(map(normalised, row)) for row in each.execute(objects)]
            for each in (by_hand, online)
        )
        assert found == expected
        (secret,) = by_hand.execute("SELECT secret FROM ordering_secret").fetchone()
        assert (type(secret), len(secret)) == (bytes, 32)


def normalised(text: str | None) -> str:
    return "".join((text or "").split())
