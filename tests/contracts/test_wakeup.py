"""
Which transactions notify an idle relay, and which do not.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.database.engine import create_engine
from relay.storage.postgres_notify import BY_INDEX, HAS_READY, PostgresWakeup
from tests.support.builders import an_event
from tests.support.eventually import eventually
from tests.support.query_plans import rows_read

SESSIONS = sa.text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Rings:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=20, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
def rings() -> Rings:
    return Rings()


@pytest.fixture
async def wakeup(engine: AsyncEngine, rings: Rings) -> AsyncIterator[PostgresWakeup]:
    wakeup = PostgresWakeup(engine, notify=rings)
    yield wakeup
    await wakeup.close()


@pytest.fixture
async def listener(postgres_url: str) -> AsyncIterator[list[str]]:
    """All notifications of the channels `outbox` and `mark`, in order."""
    heard: list[str] = []
    connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    await connection.add_listener("outbox", lambda *_: heard.append("notified"))
    await connection.add_listener("mark", lambda *_: heard.append("mark"))
    yield heard
    await connection.close()


async def record(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event()))


async def mark(engine: AsyncEngine, listener: list[str]) -> None:
    """Wait until *listener* has received all earlier notifications."""
    async with engine.begin() as connection:
        await connection.execute(sa.text("NOTIFY mark"))
    await eventually(lambda: "mark" in listener)
    listener.remove("mark")


async def test_a_committed_row_notifies_an_armed_wake_signal(engine, wakeup, rings):
    assert await wakeup.arm()
    assert wakeup.armed

    await record(engine)

    await eventually(lambda: rings.count == 1)


async def test_a_rolled_back_row_does_not_notify(engine, wakeup, rings, listener):
    await wakeup.arm()

    async with engine.connect() as connection:
        await connection.execute(outbox.insert(an_event()))
        await connection.rollback()

    await mark(engine, listener)
    assert listener == []
    assert rings.count == 0


async def test_no_transaction_notifies_while_no_relay_is_idle(engine, wakeup, rings, listener):
    await record(engine)
    await wakeup.arm()
    await wakeup.disarm()
    assert not wakeup.armed
    await record(engine)

    await mark(engine, listener)
    assert listener == []
    assert rings.count == 0


async def test_arming_twice_reports_nothing_new(engine, wakeup, rings):
    assert await wakeup.arm()
    assert not await wakeup.arm()
    await wakeup.disarm()
    await wakeup.disarm()
    assert await wakeup.arm()

    await record(engine)

    await eventually(lambda: rings.count == 1)


async def test_a_transaction_that_did_not_notify_keeps_the_wakeup_from_being_armed(engine, wakeup):
    """So an armed relay has read every row, or gets a notification."""
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event()))
        assert not await wakeup.arm()
        assert not wakeup.armed

    assert await wakeup.arm()


async def test_of_two_idle_relays_one_is_woken_and_the_other_takes_over_when_it_ends(
    engine, wakeup, rings, listener
):
    other_rings = Rings()
    other = PostgresWakeup(engine, notify=other_rings)
    await wakeup.arm()
    assert not await other.arm()

    await record(engine)
    await mark(engine, listener)
    await eventually(lambda: rings.count == 1)
    assert other_rings.count == 0

    await wakeup.close()
    await eventually(other.arm)
    await record(engine)
    await eventually(lambda: other_rings.count == 1)
    assert rings.count == 1
    await other.close()


async def test_a_lost_session_wakes_the_relay_and_can_be_armed_again(
    engine, wakeup, rings, postgres_url, postgres_server
):
    await wakeup.arm()

    await postgres_server.disconnect_clients(postgres_url.rsplit("/", 1)[1])

    await eventually(lambda: rings.count == 1)
    assert not wakeup.armed
    await engine.dispose()
    await eventually(wakeup.arm)
    await record(engine)
    await eventually(lambda: rings.count == 2)


@pytest.mark.parametrize("ordering_key", [None, "k"])
async def test_an_armed_relay_has_missed_a_row_that_is_ready(engine, wakeup, ordering_key):
    await wakeup.arm()
    assert not await wakeup.has_missed()

    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event(ordering_key=ordering_key)))

    await eventually(wakeup.has_missed)


async def test_a_row_that_waits_for_its_time_is_not_missed(engine, wakeup):
    await wakeup.arm()
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event(not_before=tomorrow)))

    assert not await wakeup.has_missed()


async def test_a_look_reads_by_index_however_many_rows_wait(engine, wakeup):
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO outbox (event_id, type, routing_key, idempotency_key, body, not_before)"
            " SELECT gen_random_uuid(), 't', 't', n::text, '{}',"
            " clock_timestamp() + '1 day'::interval FROM generate_series(1, 1000) n"
        )
        for setting in BY_INDEX.split(";"):
            await connection.exec_driver_sql(setting.replace("SET", "SET LOCAL"))
        assert await rows_read(connection, (HAS_READY, ())) == 0


async def test_a_look_on_a_lost_session_has_the_relay_claim(
    engine, wakeup, postgres_url, postgres_server
):
    await wakeup.arm()
    await postgres_server.disconnect_clients(postgres_url.rsplit("/", 1)[1])

    await eventually(wakeup.has_missed)
    assert not wakeup.armed
    await engine.dispose()


async def test_an_unavailable_database_leaves_the_wake_signal_unarmed(
    unused_tcp_port_factory, rings
):
    url = make_url(f"postgresql://nobody@127.0.0.1:{unused_tcp_port_factory()}/none")
    engine = create_engine(url, pool_size=2, application_name="test")
    wakeup = PostgresWakeup(engine, notify=rings)

    assert not await wakeup.arm()

    assert not wakeup.armed
    await wakeup.disarm()
    await wakeup.close()
    await engine.dispose()


async def test_a_closed_wake_signal_holds_no_lock(engine, wakeup):
    async def held() -> int:
        async with engine.connect() as connection:
            return await connection.scalar(SESSIONS) or 0

    await wakeup.arm()
    assert await held() == 1

    await wakeup.close()

    await eventually(lambda: _is_zero(held))


async def _is_zero(count) -> bool:
    return await count() == 0


async def test_producers_that_prepare_their_transaction_can_be_served_by_polling(engine, wakeup):
    """A transaction that has notified cannot be prepared (two-phase commit)."""
    async with engine.connect() as connection:
        await connection.execute(outbox.insert(an_event()))
        await connection.execute(sa.text("PREPARE TRANSACTION 'test_wakeup'"))
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        assert not await asyncio.wait_for(wakeup.arm(), 5)
        await connection.execute(sa.text("COMMIT PREPARED 'test_wakeup'"))
        assert await wakeup.arm()
