"""
The contract of all outbox stores about priorities: urgent rows first, none waits for ever.
"""

from collections import Counter

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.event import Priority
from outbox.tables import outbox as table
from relay.storage.base import OutboxStore
from relay.verdict import Delete, Retry
from tests.contracts.test_outbox_store import LATER, SIZE, record
from tests.support.builders import an_event

MANY, URGENT = 100_000, 20
BATCH = 500
FEWER, SMALL_BATCH = 20_000, 100
HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW

_FILL = {
    "postgresql": (
        "INSERT INTO outbox (event_id, type, routing_key, ordering_key, idempotency_key, priority,"
        " body) SELECT gen_random_uuid(), '{name}', 'n', {key}, n::text, '{priority}', '7'"
        " FROM generate_series(1, {count}) n"
    ),
    "sqlite": (
        "WITH RECURSIVE number(n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {count})"
        " INSERT INTO outbox (event_id, type, routing_key, ordering_key, idempotency_key,"
        " priority, body) SELECT printf('%032x', random() + n), '{name}', 'n', {key}, n,"
        " '{priority}', x'37' FROM number"
    ),
}


async def fill(
    engine: AsyncEngine,
    count: int,
    priority: Priority = NORMAL,
    *,
    key: str = "NULL",
    name: str = "many",
) -> None:
    """Insert *count* rows of the type *name*; *key* is SQL, and may use the row's number `n`."""
    statement = _FILL[engine.dialect.name].format(
        count=count, priority=priority, key=key, name=name
    )
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)


async def take(store: OutboxStore, *, limit: int = BATCH, size: int = SIZE) -> list[str]:
    """Claim a batch and delete it; returns the types in the order of publishing."""
    async with store.claim(limit=limit, size=size) as claim:
        await claim.settle([Delete(row) for row in claim.rows])
        return [row.values["type"] for row in claim.rows]


async def place_of_last_urgent(store: OutboxStore, *, limit: int = BATCH) -> int:
    """How many rows are published until all urgent ones are."""
    published: list[str] = []
    while published.count("urgent") < URGENT:
        taken = await take(store, limit=limit)
        assert taken
        published += taken
    return len(published) - published[::-1].index("urgent")


async def test_a_batch_has_urgent_rows_first_and_low_ones_last(engine, store):
    for priority in (LOW, NORMAL, HIGH):
        await record(
            engine, *(an_event(type=f"{priority}.{n}", priority=priority) for n in (1, 2))
        )

    async with store.claim(limit=5, size=SIZE) as claim:
        types = [row.values["type"] for row in claim.rows]
        assert claim.more

    assert types == ["high.1", "high.2", "normal.1", "normal.2", "low.1"]


@pytest.mark.parametrize("behind", [NORMAL, LOW])
async def test_twenty_urgent_rows_behind_a_hundred_thousand_are_among_the_first_percent(
    engine, store, behind
):
    await fill(engine, MANY, behind)
    await record(engine, *(an_event(type="urgent", priority=HIGH) for _ in range(URGENT)))

    assert await place_of_last_urgent(store) == URGENT


async def test_urgent_rows_overtake_a_backlog_that_is_being_published(engine, store):
    await fill(engine, FEWER)
    for _ in range(3):
        assert await take(store) == ["many"] * BATCH

    await record(engine, *(an_event(type="urgent", priority=HIGH) for _ in range(URGENT)))

    assert await place_of_last_urgent(store) == URGENT


@pytest.mark.parametrize("key", ["NULL", "'key-' || n", "'one'"])
async def test_urgent_rows_with_keys_are_among_the_first_percent(engine, store, key):
    await fill(engine, FEWER, key=key)
    await fill(engine, URGENT, HIGH, key="'urgent-' || n", name="urgent")

    assert await place_of_last_urgent(store, limit=SMALL_BATCH) <= FEWER / 100


async def test_a_key_inherits_the_priority_of_an_urgent_row_and_keeps_its_order(engine, store):
    await fill(engine, 2_000, key="'key-' || n")
    await record(
        engine,
        *(an_event(type=f"own.{n}", ordering_key="zz") for n in range(3)),
        an_event(type="own.urgent", ordering_key="zz", priority=HIGH),
        an_event(type="own.last", ordering_key="zz", priority=LOW),
    )

    published: list[str] = []
    while "own.urgent" not in published:
        published += await take(store, limit=100)

    own = [each for each in published if each.startswith("own")]
    assert own[:4] == ["own.0", "own.1", "own.2", "own.urgent"]
    assert len(published) <= 400


async def test_an_urgent_key_whose_first_row_waits_takes_no_room_from_others(engine, store):
    await record(
        engine,
        an_event(type="first", ordering_key="k"),
        an_event(type="urgent", ordering_key="k", priority=HIGH),
    )
    async with store.claim(limit=1, size=SIZE) as claim:
        await claim.settle([Retry(claim.rows[0], LATER, "refused")])
    await fill(engine, 100)

    sizes = [len(await take(store, limit=10)) for _ in range(6)]

    assert min(sizes[2:]) >= 8


async def test_normal_and_low_rows_leave_at_their_share_while_urgent_ones_never_end(engine, store):
    await fill(engine, 400, name="normal")
    await fill(engine, 400, LOW, name="low")
    published = Counter[str]()

    for _ in range(64):
        await fill(engine, 10, HIGH, name="urgent")
        batch = await take(store, limit=10)
        assert len(batch) == 10
        published.update(batch)

    assert published["normal"] >= 64 * 10 / 4 - 10
    assert published["low"] >= 64 * 10 / 16 - 10
    assert published["urgent"] >= 64 * 10 / 2


async def test_large_urgent_rows_leave_normal_ones_their_share_too(engine, store):
    large = {"content_type": "application/octet-stream", "payload": b"x" * 1_000}
    await record(engine, *(an_event(type="normal", **large) for _ in range(50)))
    await record(engine, *(an_event(type="urgent", priority=HIGH, **large) for _ in range(80)))

    published = Counter[str]()
    for _ in range(12):
        published.update(await take(store, size=5_000))

    assert published["normal"] == 3 * 5
    assert published["urgent"] == 9 * 5


async def test_other_keys_get_their_share_while_urgent_keys_never_end(engine, store):
    await fill(engine, 200, key="'key-' || n")
    published = Counter[str]()

    for number in range(32):
        await fill(engine, 10, HIGH, key=f"'urgent-{number}-' || n", name="urgent")
        published.update(await take(store, limit=10))

    assert published["many"] >= 32 * 10 / 4 - 10
    assert published["urgent"] >= 32 * 10 / 2


async def test_a_row_of_an_unknown_priority_is_claimed_where_the_table_allows_it(engine, store):
    await record(engine, *(an_event(type=name) for name in ("a", "i", "normal", "z")))
    async with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            await connection.exec_driver_sql("PRAGMA ignore_check_constraints = on")
        else:
            await connection.exec_driver_sql(
                "ALTER TABLE outbox DROP CONSTRAINT outbox_priority_check"
            )
        await connection.execute(sa.update(table).values(priority=table.c.type))

    assert sorted(await take(store)) == ["a", "i", "normal", "z"]
