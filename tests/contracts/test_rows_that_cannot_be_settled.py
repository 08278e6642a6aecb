"""
Rows that the database refuses to change: triggers and constraints of other programs.

The relay settles the rows around them, and publishes none of them again and again.
"""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.storage.dead_letters import write_dead_letter
from outbox.database.engine import create_engine
from outbox.errors import DatabaseUnavailable
from outbox.tables import dead_letters
from outbox.tables import outbox as table
from outbox.wire.codec import WireMessage
from relay.storage.base import OutboxStore
from relay.storage.sqlite import SqliteStore
from relay.verdict import DeadLetter, Delete, Quarantine, Retry
from tests.contracts.test_outbox_store import AT_ONCE, LATER, SIZE, claimed_types
from tests.support.builders import an_event
from tests.support.eventually import eventually
from tests.support.relay_stores import postgres_store

HELD, FREE = "held.back", "let.go"


async def execute(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


def is_sqlite(engine: AsyncEngine) -> bool:
    return engine.dialect.name == "sqlite"


async def refuse(
    engine: AsyncEngine,
    event: str,
    of: str = "outbox",
    *,
    silently: bool = False,
    when: str = "",
    state: str = "P0001",
) -> None:
    """Make a trigger refuse *event* for rows of the type HELD, with an error or *silently*."""
    name = f"mine_{event.lower()}_{of}"
    row = "NEW" if event == "INSERT" else "OLD"
    condition = f"{row}.type = '{HELD}'{when}"
    if is_sqlite(engine):
        act = "RAISE(IGNORE)" if silently else "RAISE(ABORT, 'mine')"
        await execute(
            engine,
            f"CREATE TRIGGER {name} BEFORE {event} ON {of} WHEN {condition}"
            f" BEGIN SELECT {act}; END",
        )
        return
    act = "RETURN NULL" if silently else f"RAISE 'mine' USING ERRCODE = '{state}'"
    await execute(
        engine,
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {act}; RETURN NULL; END $$",
        f"CREATE TRIGGER {name} BEFORE {event} ON {of} FOR EACH ROW WHEN ({condition})"
        f" EXECUTE FUNCTION {name}()",
    )


async def a_batch_with_one_held_row(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        for number in range(9):
            kind = HELD if number == 4 else FREE
            await connection.execute(outbox.insert(an_event(type=kind)))


async def rows_of(engine: AsyncEngine, of: sa.Table) -> list[sa.RowMapping]:
    async with engine.connect() as connection:
        return list((await connection.execute(sa.select(of))).mappings())


async def settle(store: OutboxStore, verdict, *arguments) -> set[tuple[str, type]]:
    """Settle all rows with *verdict*; the types and verdicts that apply."""
    async with store.claim(limit=100, size=SIZE) as claim:
        assert len(claim.rows) == 9
        applied = await claim.settle([verdict(row, *arguments) for row in claim.rows])
    assert len(applied) == 9
    return {(one.row.values["type"], type(one)) for one in applied}


@pytest.mark.parametrize("silently", [False, True], ids=["with an error", "silently"])
async def test_a_row_that_cannot_be_deleted_waits_for_a_day_and_the_others_leave(
    engine, store, silently
):
    await refuse(engine, "DELETE", silently=silently)
    await a_batch_with_one_held_row(engine)

    assert await settle(store, Delete) == {(FREE, Delete), (HELD, Quarantine)}

    (kept,) = await rows_of(engine, table)
    assert (kept["type"], kept["last_error"], kept["attempts"]) == (HELD, "unsettled", 0)
    assert (kept["not_before"] - kept["created_at"]).total_seconds() > 86_000
    assert await claimed_types(store) == []


@pytest.mark.parametrize("silently", [False, True], ids=["with an error", "silently"])
async def test_a_dead_letter_that_cannot_be_stored_stays_in_the_outbox(engine, store, silently):
    await refuse(engine, "INSERT", "dead_letters", silently=silently)
    await a_batch_with_one_held_row(engine)

    assert await settle(store, DeadLetter, "malformed") == {(FREE, DeadLetter), (HELD, Quarantine)}

    assert [row["type"] for row in await rows_of(engine, dead_letters)] == [FREE] * 8
    assert [row["type"] for row in await rows_of(engine, table)] == [HELD]


async def test_a_row_that_cannot_wait_moves_to_the_dead_letters(engine, store):
    await refuse(engine, "UPDATE")
    await a_batch_with_one_held_row(engine)

    assert await settle(store, Retry, LATER, "unroutable") == {(FREE, Retry), (HELD, DeadLetter)}

    (dead,) = await rows_of(engine, dead_letters)
    assert (dead["type"], dead["reason"], dead["source"]) == (HELD, "unsettled", "relay")
    assert [row["type"] for row in await rows_of(engine, table)] == [FREE] * 8


async def test_a_row_that_cannot_be_changed_at_all_is_not_claimed_again(engine, store):
    await refuse(engine, "DELETE")
    await refuse(engine, "UPDATE", silently=True)
    await a_batch_with_one_held_row(engine)

    assert await settle(store, Delete) == {(FREE, Delete), (HELD, Quarantine)}

    assert await claimed_types(store) == []
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event(type=FREE)))
    assert await claimed_types(store) == [FREE]
    assert len(await rows_of(engine, table)) == 2


async def test_a_row_whose_time_has_come_but_cannot_be_changed_holds_up_no_other(engine, store):
    await a_batch_with_one_held_row(engine)
    await settle(store, Retry, AT_ONCE, "unroutable")
    await refuse(engine, "UPDATE")
    promoted = 0

    async def all_others() -> bool:
        nonlocal promoted
        promoted += await store.promote()
        return promoted == 8

    await eventually(all_others)
    assert await store.promote() == 0
    assert await claimed_types(store) == [FREE] * 8


@pytest.mark.parametrize("verdict", [(Delete,), (DeadLetter, "malformed")], ids=["acked", "dead"])
async def test_a_row_that_only_the_commit_refuses_is_found_too(engine, store, verdict):
    await execute(
        engine,
        "CREATE TABLE mine (event_id uuid PRIMARY KEY REFERENCES outbox (event_id)"
        " DEFERRABLE INITIALLY DEFERRED)",
    )
    await a_batch_with_one_held_row(engine)
    await execute(engine, f"INSERT INTO mine SELECT event_id FROM outbox WHERE type = '{HELD}'")

    assert await settle(store, *verdict) == {(FREE, verdict[0]), (HELD, Quarantine)}

    assert [row["type"] for row in await rows_of(engine, table)] == [HELD]


async def test_a_trigger_that_ends_the_whole_transaction_on_sqlite_keeps_its_row_alone(sqlite_url):
    engine = create_engine(make_url(sqlite_url), pool_size=2, application_name="test")
    await execute(
        engine,
        f"CREATE TRIGGER mine BEFORE DELETE ON outbox WHEN OLD.type = '{HELD}'"
        " BEGIN SELECT RAISE(ROLLBACK, 'mine'); END",
    )
    await a_batch_with_one_held_row(engine)

    assert await settle(SqliteStore(engine), Delete) == {(FREE, Delete), (HELD, Quarantine)}

    await engine.dispose()


async def a_trigger_that_lacks_a_function(engine: AsyncEngine, *, of_type: str) -> None:
    await execute(
        engine,
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF OLD.type = '{of_type}' THEN PERFORM missing(); END IF; RETURN OLD; END $$",
        "CREATE TRIGGER mine BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION mine()",
    )


async def test_a_name_that_a_trigger_lacks_for_one_row_keeps_that_row_alone(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    await a_trigger_that_lacks_a_function(engine, of_type=HELD)
    await a_batch_with_one_held_row(engine)

    async with postgres_store(engine) as store:
        assert await settle(store, Delete) == {(FREE, Delete), (HELD, Quarantine)}

    await engine.dispose()


async def test_a_name_that_is_missing_for_all_rows_sets_none_aside(engine, store):
    """The schema is at fault: the rows are settled as soon as the name exists."""
    if is_sqlite(engine):
        await execute(
            engine,
            "CREATE TRIGGER mine BEFORE DELETE ON outbox BEGIN DELETE FROM missing; END",
        )
    else:
        await a_trigger_that_lacks_a_function(engine, of_type=FREE)
    async with engine.begin() as connection:
        for _ in range(9):
            await connection.execute(outbox.insert(an_event(type=FREE)))

    with pytest.raises(DatabaseUnavailable):
        await settle(store, Delete)
    await execute(engine, f"DROP TRIGGER mine {'' if is_sqlite(engine) else 'ON outbox'}")

    assert await settle(store, Delete) == {(FREE, Delete)}


@pytest.mark.parametrize("state", ["01000", "02000"])
async def test_an_error_whose_state_is_that_of_a_warning_is_an_error(postgres_url, state):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    await refuse(engine, "DELETE", state=state)
    await refuse(engine, "INSERT", "dead_letters", state=state)
    await a_batch_with_one_held_row(engine)

    async with postgres_store(engine) as store:
        assert await settle(store, Delete) == {(FREE, Delete), (HELD, Quarantine)}

    async with UnitOfWorkFactory(engine).begin() as work:
        with pytest.raises(DBAPIError):
            await write_dead_letter(
                work.session,
                WireMessage(exchange="x", routing_key="a", body=b"", type=HELD),
                source="etl",
                queue="q",
                reason="malformed",
                attempts=1,
            )
    await engine.dispose()


async def test_attempts_are_counted_up_to_a_million(engine, store):
    await a_batch_with_one_held_row(engine)
    await execute(engine, "UPDATE outbox SET attempts = 1000000")

    await settle(store, Retry, LATER, "unroutable")

    assert {row["attempts"] for row in await rows_of(engine, table)} == {1_000_000}
