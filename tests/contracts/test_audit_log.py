"""
The chain of the audit log, on SQLite and Postgres: each change of its rows is found.
"""

import asyncio
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit import verification
from outbox.audit.chain import START, Head, canonical_json, hash_of
from outbox.audit.log import Action, StatedFilters
from outbox.audit.pin import head_of
from outbox.audit.verification import Fault, Problem, verify
from outbox.audit_tables import audit_head, audit_log
from outbox.database.engine import create_engine
from tests.support.audit import AWKWARD, UNCHAINED, an_audit, record, without_triggers
from tests.support.dead_letters import audit_rows
from tests.support.roles import execute, role

ROWS = 5


async def restore(engine: AsyncEngine, rows: list[dict[str, Any]], head: Head) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.delete(audit_log))
        await connection.execute(sa.delete(audit_head))
        await connection.execute(sa.insert(audit_head).values(rows=head.rows, hash=head.hash))
        await connection.execute(sa.insert(audit_log), rows)


CHANGES = {
    "actor": "'eve'", "action": "'replay'", "source": "'x'", "because": "''", "role": "'eve'",
    "messages": "7", "run": "'11111111111111111111111111111111'",
    "at": "'2026-01-01 00:00:00.000000'", "selection": "'{}'", "details": """'{"n": 9}'""",
}  # fmt: skip
TAMPERED = {
    **{
        f"UPDATE audit_log SET {column} = {value} WHERE id = 3": Fault(Problem.CHANGED, 3)
        for column, value in CHANGES.items()
    },
    "UPDATE audit_log SET previous_hash = hash WHERE id = 3": Fault(Problem.CHANGED, 3),
    "UPDATE audit_log SET hash = previous_hash WHERE id = 3": Fault(Problem.CHANGED, 3),
    "UPDATE audit_log SET hash = NULL WHERE id = 3": Fault(Problem.NOT_CHAINED, 3),
    "UPDATE audit_log SET hash = NULL WHERE id = 1": Fault(Problem.DOES_NOT_FOLLOW, 2),
    "DELETE FROM audit_log WHERE id = 1": Fault(Problem.DOES_NOT_FOLLOW, 2),
    "DELETE FROM audit_log WHERE id = 3": Fault(Problem.DOES_NOT_FOLLOW, 4),
    "UPDATE audit_log SET id = 99 WHERE id = 3; UPDATE audit_log SET id = 3 WHERE id = 4;"
    "UPDATE audit_log SET id = 4 WHERE id = 99": Fault(Problem.CHANGED, 3),
    "UPDATE audit_log SET id = 6 WHERE id = 5": Fault(Problem.CHANGED, 6),
    UNCHAINED.format(id=6): Fault(Problem.NOT_CHAINED, 6),
    "DELETE FROM audit_log WHERE id = 5": Fault(Problem.ENDS_EARLY, 4),
    "DELETE FROM audit_log": Fault(Problem.ENDS_EARLY, None),
    "UPDATE audit_head SET rows = 4": Fault(Problem.OTHER_HEAD, 5),
    "UPDATE audit_head SET hash = (SELECT hash FROM audit_log WHERE id = 4)": Fault(
        Problem.OTHER_HEAD, 5
    ),
    "DELETE FROM audit_head": Fault(Problem.OTHER_HEAD, 5),
}

TAMPERED_ON_SQLITE = {
    "UPDATE audit_head SET rows = 'many', hash = 'text'": Fault(Problem.OTHER_HEAD, 5),
    "UPDATE audit_log SET hash = 'text' WHERE id = 2": Fault(Problem.CHANGED, 2),
    "UPDATE audit_log SET actor = CAST(x'ff' AS TEXT) WHERE id = 2": Fault(Problem.CHANGED, 2),
    "UPDATE audit_log SET because = x'00' WHERE id = 2": Fault(Problem.CHANGED, 2),
    "UPDATE audit_log SET selection = '{\"id\": [1 ]}' WHERE id = 2": Fault(Problem.CHANGED, 2),
}


async def test_each_change_of_the_log_is_found_at_its_first_row(engine, monkeypatch):
    monkeypatch.setattr(verification, "PAGE", 2)
    await record(engine, ROWS)
    head = await head_of(engine)
    assert (await verify(engine)).fault is None
    stored = await audit_rows(engine)
    await without_triggers(engine)

    tampered = TAMPERED | (TAMPERED_ON_SQLITE if engine.dialect.name == "sqlite" else {})
    found = {}
    for statements in tampered:
        async with engine.begin() as connection:
            for statement in statements.split(";"):
                await connection.exec_driver_sql(statement)
        found[statements] = (await verify(engine)).fault
        await restore(engine, [dict(row) for row in stored], head)

    assert found == tampered
    verified = await verify(engine, pinned=head)
    assert (verified.head, verified.uncovered, verified.fault) == (head, 0, None)


async def test_a_log_that_was_written_again_differs_from_a_pinned_head(engine):
    await record(engine, 3)
    pinned = await head_of(engine)
    await record(engine, 2)
    assert (await verify(engine, pinned=pinned)).fault is None
    if engine.dialect.name == "sqlite":
        await without_triggers(engine)
    else:
        async with engine.begin() as connection:
            off = "ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only"
            await connection.execute(sa.text(off))

    for rows, problem in ((5, Problem.OTHER_THAN_PINNED), (2, Problem.ENDS_EARLY)):
        async with engine.begin() as connection:
            await connection.execute(sa.delete(audit_log))
            await connection.execute(sa.delete(audit_head))
        await record(engine, rows, because="nothing happened")

        assert (await verify(engine)).fault is None
        fault = (await verify(engine, pinned=pinned)).fault
        assert fault is not None
        assert fault.problem is problem


async def test_rows_from_before_the_chain_are_counted_and_not_covered(engine):
    await without_triggers(engine)
    for number in (1, 2):
        async with engine.begin() as connection:
            await connection.exec_driver_sql(UNCHAINED.format(id=number))
    found = await verify(engine)
    assert (found.head, found.uncovered, found.fault) == (Head(), 2, None)
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(sa.text("ALTER TABLE audit_log ENABLE TRIGGER ALL"))
            await connection.execute(sa.text("SELECT setval('audit_log_id_seq', 2)"))

    await record(engine, 2)

    found = await verify(engine)
    assert (found.head.rows, found.uncovered, found.fault) == (2, 2, None)


async def test_rows_of_writers_at_once_are_one_chain_that_can_be_verified_meanwhile(engine):
    async def write() -> None:
        async with engine.begin() as connection:
            for number in range(3):
                await an_audit().record(connection, Action.DROP, number)

    found, *_ = await asyncio.gather(verify(engine), *(write() for _ in range(8)))

    assert found.fault is None
    last = await verify(engine)
    assert (last.head.rows, last.fault) == (24, None)
    rows = await audit_rows(engine)
    assert [row["messages"] for row in rows] == [0, 1, 2] * 8
    times = [row["at"] for row in rows]
    assert times == sorted(times)


async def test_a_rolled_back_act_leaves_the_chain_as_it_was(engine):
    await record(engine)
    before = await head_of(engine)
    async with engine.connect() as connection:
        await an_audit().record(connection, Action.DROP, 1)
        await connection.rollback()

    assert await head_of(engine) == before
    await record(engine)
    assert (await verify(engine)).fault is None


async def test_both_databases_hash_the_same_bytes(engine):
    """Postgres hashes in a trigger, SQLite in Python: an auditor may do it in either way."""
    selection = StatedFilters(AWKWARD)
    awkward = an_audit(actor=AWKWARD["text"], because="ü" * 300, selection=selection)
    async with engine.begin() as connection:
        await awkward.record(connection, Action.ERASE, 2**31 - 1, AWKWARD)
    await record(engine)

    (row, second) = await audit_rows(engine)
    texts = [
        str(row["id"]),
        row["at"].strftime("%Y-%m-%d %H:%M:%S.%f"),
        row["run"].hex,
        *(row[name] for name in ("role", "actor", "action", "source", "because")),
        canonical_json(AWKWARD),
        str(row["messages"]),
        canonical_json(AWKWARD),
    ]
    assert row["role"]
    assert row["previous_hash"] == START
    assert row["hash"] == hash_of(START, texts)
    assert second["previous_hash"] == row["hash"]
    assert (await verify(engine)).fault is None


async def test_a_row_of_another_program_is_in_the_chain_as_postgres_knows_it(postgres_url):
    """A role that may only insert states neither id, time, role nor hash."""
    columns = "run, actor, action, source, because, messages, selection"
    values = "gen_random_uuid(), 'anna', 'drop', 'etl', 'b', 1, '{\"a\": 1.50}'"
    more = "id, at, role, previous_hash, hash, "
    forged = "{}, '2020-01-01', 'someone', 'x', 'y', "
    async with role(postgres_url, "GRANT INSERT ON audit_log") as (name, url):
        await execute(url, f"INSERT INTO audit_log ({columns}) VALUES ({values})")
        for id_ in (1, 2**62):
            insert = f"INSERT INTO audit_log ({more}{columns}) VALUES"
            await execute(url, f"{insert} ({forged.format(id_)}{values}) ON CONFLICT DO NOTHING")

    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    rows = await audit_rows(engine)
    found = await verify(engine)
    await engine.dispose()
    assert {row["role"] for row in rows} == {name}
    assert max(row["id"] for row in rows) < 10
    assert min(row["at"] for row in rows).year > 2020
    assert (found.head.rows, found.fault) == (3, None)


REFUSED = [{"a": "\0"}, {"a": "\ud800"}, {"a": float("nan")}, {1: 2}, {"a": UUID(int=1)}]


@pytest.mark.parametrize("details", REFUSED, ids=repr)
async def test_details_that_no_database_stores_alike_are_refused(details, sqlite_url):
    engine = create_engine(make_url(sqlite_url), pool_size=1, application_name="test")
    async with engine.connect() as connection:
        with pytest.raises(ValueError, match=r".+"):
            await an_audit().record(connection, Action.DROP, 1, details)
    await engine.dispose()
