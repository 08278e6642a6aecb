"""
Copies of a database whose rows are there, and whose sequences are not.
"""

import sqlite3
import uuid
from contextlib import closing

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from outbox.database import id_counters
from outbox.database.engine import create_engine
from outbox.tables import outbox
from tests.support import intervals
from tests.support.commands import CommandLine
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.probes import get
from tests.support.roles import documented_rights, execute, role

CONSUMER = "tests.support.effects:consumer"
ORDERED = "tests.support.ordered:consumer"

RESTORED = """
INSERT INTO outbox
    (event_id, type, routing_key, idempotency_key, ordering_key, body, created_at)
SELECT gen_random_uuid(), 'test.happened', 'test.happened', gen_random_uuid()::text, 'k',
    convert_to(n::text, 'UTF8'), clock_timestamp() - interval '1 hour'
FROM generate_series(1, 3) AS n
"""
NEW = "SELECT outbox_add('test.happened', to_jsonb(n), ordering_key => 'k') FROM {series} AS n"
COUNTERS = """
SELECT setval(pg_get_serial_sequence(name, 'id'), 1, false)
FROM unnest(ARRAY['outbox', 'dead_letters', 'parked_messages', 'audit_log']) AS name
"""
BODIES = "SELECT convert_from(body, 'UTF8') AS body FROM outbox ORDER BY id"
BEHIND = "the counter of ids is behind the rows"


def insert(table: str, columns: str, values: str) -> str:
    return f"INSERT INTO {table} ({columns}) VALUES ({values})"


A_DEAD_LETTER = insert("dead_letters", "source, reason, attempts, body", "'etl', 'x', 1, ''")
A_PARKED_MESSAGE = insert(
    "parked_messages", "consumer, lane, attempts, body", "'ordered', 'l', 1, ''"
)


@pytest.fixture
def run(tmp_path, embedded_broker_url) -> CommandLine:
    run = CommandLine(tmp_path, MQ_BROKER_URL=embedded_broker_url, MQ_METRICS_PORT="0")
    for command in (["relay"], ["consumer", CONSUMER], ["consumer", ORDERED]):
        assert run(command[0], "topology", *command[1:]).code == 0
    return run


async def test_rows_without_their_sequences_are_refused_until_the_ids_are_repaired(
    run, postgres_url, tmp_path, embedded_broker_url
):
    """The ids decide the order of a key, also for rows that were inserted before the repair."""
    await execute(postgres_url, "SELECT setval('outbox_id_seq', 5)", RESTORED)
    await execute(postgres_url, A_DEAD_LETTER, A_PARKED_MESSAGE, COUNTERS)
    await execute(postgres_url, NEW.format(series="generate_series(11, 15)"))

    async with role(postgres_url, *documented_rights("relay")) as (_, url):
        for verb in ("check", "run"):
            done = await run.run("relay", verb, MQ_DATABASE_URL=url)
            assert done.code == 2
            for table in ("outbox", "dead_letters"):
                assert f"{table}: {BEHIND}" in done.out + done.err
            assert "SELECT outbox_repair_ids()" in done.out + done.err
    for consumer, tables in (
        (CONSUMER, {"dead_letters"}),
        (ORDERED, {"dead_letters", "parked_messages"}),
    ):
        done = await run.run("consumer", "check", consumer, MQ_DATABASE_URL=postgres_url)
        assert done.code == 2
        assert {line.split()[1][:-1] for line in done.err.splitlines()} == tables

    ((moved,),) = await execute(postgres_url, "SELECT outbox_repair_ids()")
    assert moved == 5
    ((moved,),) = await execute(postgres_url, "SELECT outbox_repair_ids()")
    assert moved == 0

    await execute(postgres_url, NEW.format(series="generate_series(21, 22)"))
    bodies = [int(row["body"]) for row in await execute(postgres_url, BODIES)]
    assert bodies == [1, 2, 3, 11, 12, 13, 14, 15, 21, 22]
    for command in (["relay", "check"], ["consumer", "check", ORDERED]):
        assert (await run.run(*command, MQ_DATABASE_URL=postgres_url)).code == 0
    await execute(postgres_url, A_DEAD_LETTER, A_PARKED_MESSAGE)


COUNTERS_OF_FIVE_ROWS = {
    "SELECT setval('outbox_id_seq', 4)": True,
    "SELECT setval('outbox_id_seq', 5, false)": True,
    "SELECT setval('outbox_id_seq', 5)": False,
    "SELECT setval('outbox_id_seq', 6, false)": False,
    "ALTER SEQUENCE outbox_id_seq RESTART WITH 1": True,
    "ALTER SEQUENCE outbox_id_seq RESTART WITH 1000": False,
}


async def test_the_next_id_decides_whether_a_counter_is_behind(postgres_url):
    """A sequence that was set and not used since has no last value, but a next one."""
    await execute(postgres_url, NEW.format(series="generate_series(1, 5)"))
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    found = {}
    for statement in COUNTERS_OF_FIVE_ROWS:
        await execute(postgres_url, statement)
        async with engine.connect() as connection:
            found[statement] = await id_counters.problems(connection, [outbox]) != []
    await engine.dispose()
    assert found == COUNTERS_OF_FIVE_ROWS

    await execute(postgres_url, "SELECT outbox_repair_ids()")
    ((following,),) = await execute(postgres_url, "SELECT nextval('outbox_id_seq')")
    assert following == 1000


LARGEST = 2**63 - 1
AHEAD = "INSERT INTO outbox ({id}event_id, type, routing_key, idempotency_key, body) {override}"
AHEAD += " VALUES ({value}gen_random_uuid(), 'test.happened', 'test.happened', 'k', '')"
WITHOUT_ID = AHEAD.format(id="", override="", value="")


def with_id(value: int) -> str:
    return AHEAD.format(id="id, ", override="OVERRIDING SYSTEM VALUE", value=f"{value}, ")


async def test_a_role_with_insert_alone_cannot_use_up_the_ids(postgres_url):
    """Such a row would hold every relay back, and the repair would leave no id for new rows."""
    async with role(postgres_url, "GRANT INSERT ON outbox") as (_, url):
        await execute(url, WITHOUT_ID)
        for value in (2, LARGEST):
            with pytest.raises(asyncpg.CheckViolationError, match="outbox_id: leave the id out"):
                await execute(url, with_id(value))
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        with pytest.raises(asyncpg.CheckViolationError, match="outbox_id: leave the id out"):
            await connection.copy_records_to_table(
                "outbox",
                columns=["id", "event_id", "type", "routing_key", "idempotency_key", "body"],
                records=[(LARGEST, uuid.uuid4(), "test.happened", "test.happened", "k", b"")],
            )
        await connection.close()
        await execute(url, WITHOUT_ID)

    assert len(await execute(postgres_url, "SELECT id FROM outbox")) == 2


async def test_a_repair_leaves_ids_for_new_rows(run, postgres_url):
    """The owner of the tables may name any id, as a restore does, also the largest one."""
    await execute(postgres_url, WITHOUT_ID, with_id(LARGEST), with_id(LARGEST - 1), with_id(40))

    ((moved,),) = await execute(postgres_url, "SELECT outbox_repair_ids()")
    assert moved == 2

    await execute(postgres_url, WITHOUT_ID)
    ids = [row["id"] for row in await execute(postgres_url, "SELECT id FROM outbox ORDER BY id")]
    assert (ids[:2], len(ids), ids[-1] < 100) == ([1, 40], 5, True)
    assert (await run.run("relay", "check", MQ_DATABASE_URL=postgres_url)).code == 0


async def test_a_table_without_a_counter_of_ids_is_refused(run, postgres_url):
    """As after CREATE TABLE … AS, or a copy by a tool that ignores identity columns."""
    await execute(postgres_url, "ALTER TABLE outbox ALTER id DROP IDENTITY")

    done = await run.run("relay", "check", MQ_DATABASE_URL=postgres_url)

    assert done.code == 2
    assert "outbox: the column id has no counter" in done.err


async def test_a_restore_beneath_a_running_relay_holds_it_back_until_the_repair(
    postgres_url, embedded_broker_url, tmp_path
):
    """Row level security holds it back in the same way; the log names the problem once."""
    async with role(postgres_url, *documented_rights("relay")) as (name, url):
        deployment = Deployment(
            postgres_url,
            embedded_broker_url,
            tmp_path,
            MQ_DATABASE_URL=url,
            **{intervals.VARIABLE: "schema"},
        )
        async with deployment:
            relay = await deployment.relay()
            line = await relay.wait_for_line("probes_listening")
            port = int(line.partition('"port": ')[2].split(",")[0].rstrip("}"))

            async def is_ready() -> bool:
                return bool(await get(port, "/readyz"))

            async def is_not_ready() -> bool:
                return not await is_ready()

            await eventually(is_ready)
            await execute(postgres_url, "ALTER TABLE outbox ENABLE ROW LEVEL SECURITY")
            await relay.wait_for_line("row level security hides or refuses rows for the role")
            await eventually(is_not_ready)
            policy = f"CREATE POLICY p ON outbox TO {name} USING (true) WITH CHECK (true)"
            await execute(postgres_url, policy)
            await eventually(is_ready)

            # A row that the broker cannot route stays in the outbox.
            await execute(postgres_url, "SELECT outbox_add('nowhere', '{}')", COUNTERS)
            await relay.wait_for_line(BEHIND)
            await eventually(is_not_ready)
            await execute(postgres_url, "SELECT outbox_repair_ids()")
            await eventually(is_ready)


def test_a_sqlite_file_never_reuses_a_lower_id(sqlite_url):
    with closing(sqlite3.connect(make_url(sqlite_url).database)) as database:
        add = "INSERT INTO dead_letters (source, reason, attempts, body) VALUES ('a', 'b', 1, x'')"
        for _ in range(3):
            database.execute(add)
        database.execute("UPDATE sqlite_sequence SET seq = 0")
        assert database.execute(add).lastrowid == 4
