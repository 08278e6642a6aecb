"""
The store of parked messages, in both databases.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer.storage.parked import ParkedMessage, ParkedMessages
from consumer.storage.tables import parked_messages
from outbox.database.engine import create_engine
from outbox.tables import MAX_ATTEMPTS
from outbox.wire.codec import WireMessage
from tests.support.builders import AN_INSTANT, LEAK_MARKER
from tests.support.eventually import eventually
from tests.support.query_plans import recorded, rows_read

Sessions = async_sessionmaker[AsyncSession]
NOW, LATER = timedelta(0), timedelta(hours=1)
MANY, FEW, INSTRUCTIONS = 20_000, 50, 100


def a_message(name: str = "m", **changes: Any) -> WireMessage:
    values = {"exchange": "x", "routing_key": "a.b", "body": b"{}", "message_id": name}
    return WireMessage(**{**values, **changes})


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine)


@pytest.fixture
def parking() -> ParkedMessages:
    return ParkedMessages("etl")


async def park(
    sessions: Sessions, parking: ParkedMessages, *names: str, wait: timedelta = NOW
) -> None:
    """Park messages that are named after their lane and a number, as in `a1`."""
    async with sessions.begin() as session:
        for name in names:
            await parking.park(session, a_message(name), lane=name[0], attempts=1, wait=wait)


def names(found: list[ParkedMessage]) -> list[str | None]:
    return [parked.message.message_id for parked in found]


async def due(
    sessions: Sessions, parking: ParkedMessages, *, limit: int = 100
) -> list[str | None]:
    async with sessions() as session:
        return names(await parking.next_due(session, limit=limit))


async def finish(
    sessions: Sessions, parking: ParkedMessages, *, limit: int = 100
) -> list[str | None]:
    """Remove all messages that are due, as if they had succeeded; return their names."""
    async with sessions.begin() as session:
        found = await parking.next_due(session, limit=limit)
        for parked in found:
            assert await parking.remove(session, parked)
    return names(found)


async def test_a_message_comes_out_as_it_was_parked(sessions, parking):
    message = a_message(
        body=bytes(range(256)),
        type="test.happened",
        correlation_id="c",
        timestamp=AN_INSTANT,
        content_type="application/json",
        content_encoding="gzip",
        priority=9,
        headers={"x-outbox-lane": "0" * 32, "x-outbox-idempotency-key": "i", "source": "s"},
    )
    async with sessions.begin() as session:
        await parking.park(session, message, lane="a", attempts=3, wait=NOW)

    async with sessions() as session:
        (parked,) = await parking.next_due(session, limit=1)

    assert (parked.lane, parked.attempts, parked.message) == ("a", 3, message)


async def test_a_parked_message_does_not_show_its_body(sessions, parking):
    async with sessions() as session:
        await parking.park(
            session, a_message(body=LEAK_MARKER.encode()), lane="a", attempts=1, wait=NOW
        )
        (parked,) = await parking.next_due(session, limit=1)

    assert LEAK_MARKER not in repr(parked)


async def test_a_lane_is_parked_from_its_first_row_to_its_last(sessions, parking):
    async def is_parked(lane: str, by: ParkedMessages = parking) -> bool:
        async with sessions() as session:
            return await by.is_parked(session, lane)

    assert not await is_parked("b")
    await park(sessions, parking, "b1", "b2", wait=LATER)
    assert await is_parked("b")
    assert not await is_parked("a")
    assert not await is_parked("c")
    assert not await is_parked("b", ParkedMessages("audit"))

    async with sessions.begin() as session:
        await session.execute(sa.update(parked_messages).values(due_at=AN_INSTANT))
    await finish(sessions, parking)
    assert await is_parked("b")
    await finish(sessions, parking)
    assert not await is_parked("b")


async def test_the_messages_of_a_lane_come_one_after_another_in_the_order_of_parking(
    sessions, parking
):
    await park(sessions, parking, "a1", "b1", "a2", "a3", "b2")

    came = [await finish(sessions, parking) for _ in range(4)]

    assert came == [["a1", "b1"], ["a2", "b2"], ["a3"], []]


async def test_consumers_do_not_know_of_each_others_messages(sessions, parking):
    await park(sessions, ParkedMessages("audit"), "a1")
    await park(sessions, parking, "a2")
    await park(sessions, ParkedMessages("zeta"), "a3")

    assert await due(sessions, parking) == ["a2"]


async def test_the_first_message_of_a_lane_waits_for_its_delay(sessions, parking):
    await park(sessions, parking, "a1", wait=LATER)
    await park(sessions, parking, "b1", wait=timedelta(milliseconds=300))
    assert await due(sessions, parking) == []

    assert await eventually(lambda: due(sessions, parking)) == ["b1"]


async def test_a_postponed_message_holds_back_its_lane_and_no_other(sessions, parking):
    await park(sessions, parking, "a1", "a2", "b1", "b2")
    async with sessions.begin() as session:
        first = (await parking.next_due(session, limit=100))[0]
        assert await parking.postpone(session, first, attempts=2, wait=LATER)

    assert names([first]) == ["a1"]
    assert [await finish(sessions, parking) for _ in range(3)] == [["b1"], ["b2"], []]
    async with sessions() as session:
        rows = (await session.execute(sa.select(parked_messages).order_by("id"))).all()
    assert [(row.message_id, row.attempts) for row in rows] == [("a1", 2), ("a2", 1)]


async def test_a_rolled_back_attempt_leaves_the_row_as_it_was(sessions, parking):
    await park(sessions, parking, "a1", "a2")
    for change in (parking.remove, postpone_of(parking)):
        async with sessions() as session:
            (parked,) = await parking.next_due(session, limit=1)
            assert await change(session, parked)
            await session.rollback()

    async with sessions() as session:
        (again,) = await parking.next_due(session, limit=1)
    assert again == parked


def postpone_of(
    parking: ParkedMessages,
) -> Callable[[AsyncSession, ParkedMessage], Awaitable[bool]]:
    return lambda session, parked: parking.postpone(session, parked, attempts=2, wait=LATER)


@pytest.mark.parametrize("faster", ["remove", "postpone"])
@pytest.mark.parametrize("slower", ["remove", "postpone"])
async def test_a_released_row_is_changed_only_if_no_other_process_changed_it(
    sessions, parking, faster, slower
):
    changes = {"remove": parking.remove, "postpone": postpone_of(parking)}
    await park(sessions, parking, "a1", "a2")
    async with sessions() as session:
        (parked,) = await parking.next_due(session, limit=1)
        await session.rollback()
    async with sessions.begin() as session:
        assert await changes[faster](session, parked)

    async with sessions.begin() as session:
        assert not await changes[slower](session, parked)


async def test_two_sessions_never_work_on_one_lane(sessions, parking):
    """On SQLite the second one waits for the first; on Postgres it gets the other lanes."""
    await park(sessions, parking, "a1", "a2", "b1", "b2")
    async with sessions() as session:
        (mine,) = await ParkedMessages("etl").next_due(session, limit=1)
        other = asyncio.create_task(due(sessions, ParkedMessages("etl")))
        if session.get_bind().dialect.name == "sqlite":
            await asyncio.wait({other}, timeout=0.2)
            assert not other.done()
        else:
            assert await asyncio.wait_for(other, 10) == ["b1"]

        await parking.remove(session, mine)
        await session.commit()

    assert names([mine]) == ["a1"]
    assert "a1" not in await other
    assert await due(sessions, parking) == ["a2", "b1"]


async def test_an_attempt_that_is_rolled_back_to_a_savepoint_keeps_its_lane(sessions, parking):
    await park(sessions, parking, "a1", "a2", "b1")
    async with sessions.begin() as session:
        (parked,) = await parking.next_due(session, limit=1)
        attempt = await session.begin_nested()
        await session.execute(sa.delete(parked_messages))
        await attempt.rollback()
        other = asyncio.create_task(due(sessions, ParkedMessages("etl")))
        await asyncio.wait({other}, timeout=0.2)

        assert await parking.postpone(session, parked, attempts=2, wait=LATER)

    assert await other == ["b1"]


async def test_each_lane_has_its_turn_however_many_rows_another_has(sessions, parking):
    await park(sessions, parking, "a1", "a2", "a3", "b1", "c1", "c2")

    came = [(await finish(sessions, parking, limit=1))[0] for _ in range(6)]

    assert came == ["a1", "b1", "c1", "a2", "c2", "a3"]


async def test_a_poll_that_begins_in_the_middle_finds_each_lane_once(sessions, parking):
    await park(sessions, parking, "a1", "b1", "c1", "d1")
    async with sessions() as session:
        first = await parking.next_due(session, limit=2)
        second = await parking.next_due(session, limit=100)

    assert (names(first), names(second)) == (["a1", "b1"], ["c1", "d1", "a1", "b1"])


async def test_the_store_counts_parked_messages_and_the_oldest_age(engine, sessions, parking):
    async def waiting() -> tuple[int, timedelta | None]:
        async with engine.connect() as connection:
            return await parking.waiting(connection)

    assert await waiting() == (0, None)

    await park(sessions, ParkedMessages("audit"), "a1")
    await park(sessions, parking, "a1", "a2", "b1", wait=LATER)
    async with sessions.begin() as session:
        await session.execute(
            sa.update(parked_messages)
            .where(parked_messages.c.message_id == "a2")
            .values(parked_at=datetime.now(UTC) - LATER)
        )
    count, age = await waiting()
    assert count == 3
    assert age is not None
    assert LATER <= age < LATER + timedelta(minutes=1)


async def fill(engine: AsyncEngine, *, lane: str, count: int, wait: str = "0") -> None:
    """Park *count* messages; *lane* is SQL and may use the row's number `n`."""
    is_sqlite = engine.dialect.name == "sqlite"
    due_at = (
        f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '{wait} seconds')"
        if is_sqlite
        else f"clock_timestamp() + '{wait} seconds'::interval"
    )
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "WITH RECURSIVE number(n) AS"
            f" (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {count})"
            " INSERT INTO parked_messages (consumer, lane, attempts, body, due_at)"
            f" SELECT 'etl', {lane}, 0, '{{}}', {due_at} FROM number"
        )


async def cost(engine: AsyncEngine, work: Callable[[AsyncSession], Awaitable[Any]]) -> int:
    """Rows that Postgres reads for *work*, or hundreds of instructions that SQLite executes."""
    if engine.dialect.name == "postgresql":
        with recorded(engine) as statements:
            async with AsyncSession(engine) as session:
                await work(session)
        async with engine.connect() as connection:
            return sum([await rows_read(connection, statement) for statement in statements])
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    async with AsyncSession(engine) as session:
        await work(session)  # once without counting, so that the schema has been read
        driver = (await (await session.connection()).get_raw_connection()).driver_connection
        await driver.set_progress_handler(step, INSTRUCTIONS)
        await work(session)
        await driver.set_progress_handler(None, 0)
    return steps


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize("wait", ["-1", "3600"])
async def test_a_lane_of_twenty_thousand_rows_costs_no_more_than_one_with_a_single_row(
    engine, analysed, wait
):
    async def look(session: AsyncSession) -> None:
        parking = ParkedMessages("etl")
        parking._after = "key-25"  # in the middle, so that there are two statements
        found = await parking.next_due(session, limit=2 * FEW)
        assert len(found) == FEW + (wait == "-1")

    await fill(engine, lane="'key-' || n", count=FEW)
    await fill(engine, lane="'long'", count=1, wait=wait)
    before = await cost(engine, look)

    await fill(engine, lane="'long'", count=MANY, wait="-1")
    if analysed:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("ANALYZE")

    assert await cost(engine, look) <= 1.2 * before


async def test_a_poll_reads_no_more_lanes_than_it_takes(engine):
    async def look(session: AsyncSession) -> None:
        assert len(await ParkedMessages("etl").next_due(session, limit=5)) == 5

    await fill(engine, lane="'key-' || n", count=FEW)
    before = await cost(engine, look)

    await fill(engine, lane="'lane-' || n", count=MANY)

    assert await cost(engine, look) <= 1.2 * before


@pytest.mark.parametrize("rows", ["'long'", "'lane-' || n"])
async def test_whether_a_lane_is_parked_costs_one_probe(engine, rows):
    def probe(lane: str) -> Callable[[AsyncSession], Awaitable[bool]]:
        return lambda session: ParkedMessages("etl").is_parked(session, lane)

    await fill(engine, lane=rows, count=MANY)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ANALYZE")

    assert [lane for lane in ("a", "long", "z") if await cost(engine, probe(lane)) > 1] == []


async def test_plans_that_are_made_for_any_lane_do_not_read_the_table(postgres_url):
    """Postgres may use such a plan from the sixth execution on."""
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    await fill(engine, lane="'long'", count=MANY)
    async with AsyncSession(engine) as session:
        await session.execute(sa.text("ANALYZE"))
        await session.execute(sa.text("SET LOCAL plan_cache_mode = force_generic_plan"))
        before = await read_so_far(session)

        assert not await ParkedMessages("etl").is_parked(session, "unknown")
        assert len(await ParkedMessages("etl").next_due(session, limit=5)) == 1

        assert await read_so_far(session) - before < 10
    await engine.dispose()


async def read_so_far(session: AsyncSession) -> int:
    """How many rows this transaction has read."""
    rows = await session.scalar(
        sa.text(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
            " WHERE relname = 'parked_messages'"
        )
    )
    assert rows is not None
    return int(rows)


@pytest.mark.parametrize("change", ["remove", "postpone"])
async def test_a_poll_with_an_older_snapshot_finds_neither_a_finished_row_nor_its_successor(
    postgres_url, change
):
    """The poll reads the lane as it was, and must not treat the locked row as that version."""
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    sessions, parking = async_sessionmaker(engine), ParkedMessages("etl")
    changes = {"remove": parking.remove, "postpone": postpone_of(parking)}
    await park(sessions, parking, "a1", "a2", "b1")
    async with sessions() as session, sessions() as gate:
        (parked,) = await parking.next_due(session, limit=1)
        await gate.execute(sa.text("SELECT pg_advisory_xact_lock(1)"))
        with held_up(engine):
            look = asyncio.create_task(due(sessions, ParkedMessages("etl")))
            await eventually(lambda: somebody_waits(engine))

        assert await changes[change](session, parked)
        await session.commit()
        await gate.rollback()

        assert await look == ["b1"]
    await engine.dispose()


@contextmanager
def held_up(engine: AsyncEngine) -> Iterator[None]:
    """Delay polls by an advisory lock after they have taken their snapshot."""

    def wait_first(_connection, _cursor, statement, parameters, _context, _many):
        start = "row_of_lane.lane > $2::VARCHAR"
        gate = "(SELECT pg_advisory_xact_lock_shared(1)::text) IS NOT NULL"
        return statement.replace(start, f"{start} AND {gate}", 1), parameters

    sa.event.listen(engine.sync_engine, "before_cursor_execute", wait_first, retval=True)
    yield
    sa.event.remove(engine.sync_engine, "before_cursor_execute", wait_first)


async def somebody_waits(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        waiting = sa.text(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
        )
        return await connection.scalar(waiting) == 1


TEXTS = (
    "lane",
    "message_id",
    "type",
    "exchange",
    "routing_key",
    "idempotency_key",
    "correlation_id",
    "priority",
    "headers",
    "content_type",
    "content_encoding",
)


@pytest.mark.parametrize("value", ["CAST(x'ff41' AS TEXT)", "x'ff41'"])
@pytest.mark.parametrize("column", TEXTS)
async def test_a_parked_row_of_sqlite_that_is_not_utf_8_stops_no_lane(sqlite_url, column, value):
    """SQLite takes no such text as a parameter, so a message that kept it could not be settled."""
    engine = create_engine(make_url(sqlite_url), pool_size=1, application_name="test")
    sessions, parking = async_sessionmaker(engine), ParkedMessages("etl")
    await park(sessions, parking, "a1", "b1")
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            f"UPDATE parked_messages SET {column} = {value} WHERE lane = 'a'"
        )

    finished = [await finish(sessions, parking, limit=1) for _ in range(2)]
    finished += [await finish(sessions, parking)]
    await engine.dispose()

    found = [name for names_found in finished for name in names_found]
    unreadable = "\\xffA" if column == "message_id" else "a1"
    assert sorted(found, key=str) == sorted([unreadable, "b1"])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("attempts", "'x'"),
        ("attempts", "1.5"),
        ("attempts", "x'31'"),
        ("attempts", "-5"),
        ("attempts", "9223372036854775807"),
        ("due_at", "'x'"),
        ("due_at", "'now'"),
        ("due_at", "x'32'"),
        ("due_at", "7"),
        ("parked_at", "'x'"),
        ("occurred_at", "'x'"),
        ("body", "'text'"),
        ("body", "7"),
        ("headers", "7"),
        ("priority", "7"),
    ],
)
async def test_a_parked_row_of_sqlite_of_any_type_is_postponed_and_removed_like_others(
    sqlite_url, column, value
):
    engine = create_engine(make_url(sqlite_url), pool_size=1, application_name="test")
    sessions, parking = async_sessionmaker(engine), ParkedMessages("etl")
    await park(sessions, parking, "a1", "b1")
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            f"UPDATE parked_messages SET {column} = {value} WHERE lane = 'a'"
        )
    async with sessions.begin() as session:
        first, _ = await parking.next_due(session, limit=2)
        assert await parking.lock(session, first)
        assert await parking.postpone(
            session, first, attempts=first.attempts + 1, wait=timedelta(0)
        )
        if first.attempts < MAX_ATTEMPTS:
            assert not await parking.remove(session, first)  # another process has attempted it

    assert 0 <= first.attempts <= MAX_ATTEMPTS
    assert isinstance(first.message.body, bytes)
    assert sorted(await finish(sessions, parking)) == ["a1", "b1"]
    await engine.dispose()


async def test_a_parked_message_that_is_not_utf_8_keeps_its_bytes_apart(sqlite_url):
    """Two such keys stay two keys, and headers without such text stay as they are."""
    engine = create_engine(make_url(sqlite_url), pool_size=1, application_name="test")
    sessions, parking = async_sessionmaker(engine), ParkedMessages("etl")
    await park(sessions, parking, "a1", "b1")
    async with engine.begin() as connection:
        for lane, key in (("a", "ff41"), ("b", "fe41")):
            await connection.exec_driver_sql(
                f"UPDATE parked_messages SET idempotency_key = CAST(x'{key}' AS TEXT),"
                f" headers = CAST('{{\"s\": \"' || CAST(x'{key}' AS TEXT) || '\"}}' AS TEXT)"
                f" WHERE lane = '{lane}'"
            )
    async with sessions() as session:
        found = await parking.next_due(session, limit=10)
    await engine.dispose()

    assert {parked.message.headers["s"] for parked in found} == {"\\xffA", "\\xfeA"}
