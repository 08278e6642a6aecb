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
from tests.support.servers import binaries
from tests.support.servers.fleet import POSTGRES

CONFIG = str(REPOSITORY / "alembic.ini")

# All that a migration makes in a schema; names of constraints in the order of their creation.
OBJECTS = """
SELECT 'column', table_name, column_name, data_type, coalesce(column_default, ''), is_nullable,
    is_identity
FROM information_schema.columns WHERE table_schema = current_schema()
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
FROM pg_constraint WHERE connamespace = quote_ident(current_schema())::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef, '', '', '' FROM pg_indexes
WHERE schemaname = current_schema()
UNION ALL
SELECT 'function', proname, prosrc, coalesce(array_to_string(proconfig, ','), ''), '', '', ''
FROM pg_proc WHERE pronamespace = quote_ident(current_schema())::regnamespace
UNION ALL
SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(pg_trigger.oid),
    tgenabled::text, '', ''
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE NOT tgisinternal AND relnamespace = quote_ident(current_schema())::regnamespace
UNION ALL
SELECT 'options', relname, coalesce(array_to_string(reloptions, ','), ''), '', '', '', ''
FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind = 'r'
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


async def objects(url: str, schema: str = "public") -> list[list[str]]:
    """All that a migration has made in *schema*, as if it were `public`."""
    rows = await execute(url, f"SET search_path = {schema}", OBJECTS)
    return [[text.replace(schema, "public") for text in row] for row in rows]


async def psql(url: str, script: str) -> None:
    program = binaries.psql() or POSTGRES.programs() / "psql"
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

    assert await objects(empty_postgres_url) == await objects(postgres_url)
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


@pytest.mark.parametrize("program", ["relay", "alembic"])
async def test_the_printed_statements_make_the_same_tables_in_a_schema(run, postgres_url, program):
    """The database that the URL names is not asked."""
    unreachable = "postgresql://app:hunter2@127.0.0.1:1/nowhere"
    settings = {"MQ_DATABASE_URL": unreachable, "MQ_DATABASE_SCHEMA": 'Our "50%:s"'}
    command = {
        "relay": ("relay", "migrate", "--sql"),
        "alembic": ("alembic", "-c", CONFIG, "upgrade", "head", "--sql"),
    }
    done = await run.run(*command[program], **settings)
    assert done.code == 0, done.err
    assert "hunter2" not in done.out + done.err

    await psql(postgres_url, done.out)

    assert await objects(postgres_url, '"Our ""50%:s"""') == await objects(postgres_url)


async def test_a_range_of_revisions_is_printed_and_another_one_is_refused(run, tmp_path):
    """Without a setting, for SQLite, and without a file."""
    done = await run.run("relay", "migrate", "--sql", "0008:head")
    assert done.code == 0
    assert "begun_deliveries" in done.out
    assert "processed_messages" not in done.out
    assert not (tmp_path / "outbox.db").exists()

    for wrong in (("--sql", "7:head"), ("--sql", "nope"), ("0008:head",)):
        done = await run.run("relay", "migrate", *wrong)
        assert done.code == 2
        assert done.err.endswith("error: REVISION: there is no such revision\n")


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
