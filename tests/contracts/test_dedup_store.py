"""
The dedup store, in both databases.
"""

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer.handler import Lease, OnLeaseExpired
from consumer.maintenance.retention import Retention
from consumer.storage import dedup_statistics
from consumer.storage.dedup import Dedup
from consumer.storage.durations import DurationWriter, record_durations
from consumer.storage.leases import Held, Leases
from consumer.storage.purge import PURGE_LIMIT, purge
from consumer.storage.tables import as_uuid, parked_messages, processed_messages
from outbox.database_time import now_plus
from outbox.errors import ConfigurationError
from outbox.wire import row_codec
from outbox.wire.envelope import Envelope
from tests.support.builders import an_event
from tests.support.eventually import eventually

Sessions = async_sessionmaker[AsyncSession]


def an_envelope(**changes) -> Envelope:
    return row_codec.from_row({**row_codec.to_row(an_event(**changes)), **EMPTY})


A_LEASE = Lease(timedelta(hours=1), OnLeaseExpired.RETRY)
EMPTY = {"exchange": None, "content_encoding": None}


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine)


async def complete(sessions: Sessions, dedup: Dedup, envelope: Envelope) -> bool:
    async with sessions.begin() as session:
        return bool(await first_time(session, dedup, envelope))


async def first_time(session: AsyncSession, dedup: Dedup, *envelopes: Envelope) -> set[str]:
    entries = {envelope.idempotency_key: (envelope, 1) for envelope in envelopes}
    return await dedup.record_completed(session, entries)


async def add_duration(sessions: Sessions, dedup: Dedup, key: str, took: timedelta) -> None:
    async with sessions.begin() as session:
        await record_durations(await session.connection(), "etl", {key: took})


async def row_of(sessions: Sessions) -> sa.Row:
    async with sessions() as session:
        return (await session.execute(sa.select(processed_messages))).one()


async def test_a_completed_message_is_a_duplicate_from_then_on(sessions):
    envelope = an_envelope()

    assert await complete(sessions, Dedup("etl"), envelope)
    assert not await complete(sessions, Dedup("etl"), envelope)


async def test_a_rolled_back_attempt_leaves_no_duplicate_behind(sessions):
    envelope = an_envelope()
    async with sessions() as session:
        await first_time(session, Dedup("etl"), envelope)
        await session.rollback()

    assert await complete(sessions, Dedup("etl"), envelope)


async def test_consumers_share_no_rows(sessions):
    envelope = an_envelope()

    assert await complete(sessions, Dedup("etl"), envelope)
    assert await complete(sessions, Dedup("audit"), envelope)


async def test_two_events_with_one_idempotency_key_are_one(sessions):
    assert await complete(sessions, Dedup("etl"), an_envelope(idempotency_key="same"))
    assert not await complete(sessions, Dedup("etl"), an_envelope(idempotency_key="same"))


async def test_a_message_of_another_publisher_is_known_by_its_text(sessions):
    """Its id is no UUID, and the column holds one that is made from it."""
    foreign = replace(an_envelope(), id="msg-456", idempotency_key="msg-456")
    dedup, leases = Dedup("etl"), Leases("mail")

    assert await complete(sessions, dedup, foreign)
    assert not await complete(sessions, dedup, foreign)
    async with sessions.begin() as session:
        claim = await leases.claim(session, foreign, A_LEASE, owner=uuid4(), attempt=1)
    assert isinstance(claim, Held)
    async with sessions() as session:
        ids = (await session.scalars(sa.select(processed_messages.c.message_id))).all()
    assert set(ids) == {as_uuid("msg-456")}
    assert set(ids) != {as_uuid("msg-457")}


async def test_a_dead_lettered_message_may_still_be_completed(sessions):
    envelope, dedup = an_envelope(), Dedup("etl")
    async with sessions.begin() as session:
        await dedup.record_failed(session, envelope, attempt=4)
    assert (await row_of(sessions)).status == "failed"

    assert await complete(sessions, dedup, envelope)

    assert (await row_of(sessions)).status == "completed"


async def test_a_completed_message_never_becomes_failed(sessions):
    envelope, dedup = an_envelope(), Dedup("etl")
    await complete(sessions, dedup, envelope)

    async with sessions.begin() as session:
        assert not await dedup.record_failed(session, envelope, attempt=4)

    assert (await row_of(sessions)).status == "completed"


async def test_the_dedup_row_has_the_message_and_the_duration(sessions):
    envelope, dedup = an_envelope(correlation_id="c"), Dedup("etl")

    async with sessions.begin() as session:
        key = envelope.idempotency_key
        await dedup.record_completed(session, {key: (envelope, 2)})
    await add_duration(sessions, dedup, key, timedelta(seconds=1.5))

    row = await row_of(sessions)
    assert (row.consumer, row.idempotency_key) == ("etl", envelope.idempotency_key)
    assert (row.message_id, row.correlation_id, row.type) == (envelope.id, "c", envelope.type)
    assert (row.attempts, row.processing_duration_seconds) == (2, 1.5)


async def test_the_duration_writer_writes_the_durations_that_it_takes(engine, sessions):
    dedup, envelopes = Dedup("etl"), [an_envelope() for _ in range(3)]
    async with sessions.begin() as session:
        await first_time(session, dedup, *envelopes)
    taken = {envelope.idempotency_key: timedelta(seconds=1) for envelope in envelopes[:2]}

    await DurationWriter(engine, "etl", lambda: taken).write()

    async with sessions() as session:
        written = sa.select(sa.func.count(processed_messages.c.processing_duration_seconds))
        assert await session.scalar(written) == len(taken)


@pytest.mark.parametrize("first_commits", [True, False])
async def test_a_twin_waits_for_the_first_and_then_finds_it_done_or_not(sessions, first_commits):
    envelope, dedup = an_envelope(), Dedup("etl")
    async with sessions() as session:
        assert await first_time(session, dedup, envelope)
        twin = asyncio.create_task(complete(sessions, dedup, envelope))
        await asyncio.wait({twin}, timeout=0.2)
        assert not twin.done()

        await (session.commit() if first_commits else session.rollback())

    assert await twin is not first_commits


async def test_the_purge_deletes_only_rows_older_than_the_retention(engine, sessions):
    dedup = Dedup("etl")
    await complete(sessions, dedup, an_envelope())
    await complete(sessions, Dedup("audit"), an_envelope())

    async def purged(older_than: timedelta) -> int:
        async with engine.begin() as connection:
            return (await purge(connection, "etl", older_than=older_than)).rows

    assert await purged(timedelta(hours=1)) == 0
    assert await eventually(lambda: purged(timedelta(milliseconds=1))) == 1
    assert (await row_of(sessions)).consumer == "audit"


async def age(sessions: Sessions, days: float, *envelopes: Envelope) -> None:
    """Make the rows of *envelopes* *days* old."""
    async with sessions.begin() as session:
        await session.execute(
            sa.update(processed_messages)
            .where(
                processed_messages.c.idempotency_key.in_(
                    [envelope.idempotency_key for envelope in envelopes]
                )
            )
            .values(processed_at=now_plus(sa.literal(-days * 86_400)))
        )


async def keys_of(sessions: Sessions) -> set[str]:
    async with sessions() as session:
        return set(await session.scalars(sa.select(processed_messages.c.idempotency_key)))


async def purge_all(kept: Retention) -> list[int]:
    return [rows async for rows in kept.batches(asyncio.Event())]


MONTH = timedelta(days=30)


async def test_a_purge_leaves_a_margin_for_clocks_that_differ(engine, sessions):
    dedup, just_old, very_old = Dedup("etl"), an_envelope(), an_envelope()
    for envelope in (just_old, very_old):
        await complete(sessions, dedup, envelope)
    await age(sessions, 30.02, just_old)
    await age(sessions, 30.05, very_old)

    assert await purge_all(Retention(engine, "etl", older_than=MONTH, horizon=MONTH)) == [1]

    assert await keys_of(sessions) == {just_old.idempotency_key}


async def test_retention_purges_all_old_rows_without_a_pause_and_leaves_the_rest(engine, sessions):
    old, young, dedup = (
        [an_envelope() for _ in range(PURGE_LIMIT + 5)],
        an_envelope(),
        Dedup("etl"),
    )
    async with sessions.begin() as session:
        await first_time(session, dedup, *old, young)
    await age(sessions, 31, *old)
    await age(sessions, 29, young)
    stop = asyncio.Event()

    async def only_young_rows() -> bool:
        return await keys_of(sessions) == {young.idempotency_key}

    kept = Retention(engine, "etl", older_than=MONTH, horizon=MONTH)
    running = asyncio.create_task(kept.run(stop))
    await eventually(only_young_rows)
    stop.set()
    await running

    assert await only_young_rows()


async def test_rows_younger_than_the_oldest_parked_message_outlive_the_retention(engine, sessions):
    """The parked message may be the second copy of one that was completed before its turn."""
    older, younger, dedup = an_envelope(), an_envelope(), Dedup("etl")
    async with sessions.begin() as session:
        await first_time(session, dedup, older, younger)
        parked = sa.insert(parked_messages).values(
            consumer="etl",
            lane="a",
            attempts=0,
            body=b"",
            due_at=now_plus(sa.literal(0.0)),
            parked_at=now_plus(sa.literal(-40 * 86_400.0)),
        )
        await session.execute(parked)
    await age(sessions, 41, older)
    await age(sessions, 39, younger)
    retention = Retention(engine, "etl", older_than=MONTH, horizon=MONTH, ordered=True)

    assert await purge_all(retention) == [1]
    assert await keys_of(sessions) == {younger.idempotency_key}

    async with sessions.begin() as session:
        await session.execute(sa.delete(parked_messages))
    assert await purge_all(retention) == [1]


def test_a_purge_below_the_horizon_is_refused(engine):
    with pytest.raises(ConfigurationError, match="below its horizon"):
        Retention(engine, "etl", older_than=MONTH - timedelta(seconds=1), horizon=MONTH)


@pytest.mark.parametrize(("left", "purged"), [(timedelta(hours=1), 0), (-timedelta(hours=1), 1)])
async def test_the_purge_keeps_rows_with_a_lease(engine, sessions, left, purged):
    envelope = an_envelope()
    async with sessions.begin() as session:
        await Leases("etl").claim(session, envelope, A_LEASE, owner=uuid4(), attempt=1)
        await session.execute(
            sa.update(processed_messages).values(
                lease_until=now_plus(sa.literal(left.total_seconds()))
            )
        )
    await age(sessions, 40, envelope)

    assert await purge_all(Retention(engine, "etl", older_than=MONTH, horizon=MONTH)) == [purged]


async def test_concurrent_purges_delete_each_old_row_once(engine, sessions):
    old, young, dedup = [an_envelope() for _ in range(2_300)], an_envelope(), Dedup("etl")
    async with sessions.begin() as session:
        await first_time(session, dedup, *old, young)
    for some in (old[:1_000], old[1_000:2_000], old[2_000:]):
        await age(sessions, 40, *some)

    rounds = await asyncio.gather(
        *(purge_all(Retention(engine, "etl", older_than=MONTH, horizon=MONTH)) for _ in range(3))
    )

    assert sum(map(sum, rounds)) == 2_300
    assert max(map(max, rounds)) == 1_000
    assert await keys_of(sessions) == {young.idempotency_key}


async def test_writers_and_purges_neither_deadlock_nor_delete_new_rows(engine, sessions):
    """Eight writers insert shuffled duplicates, some of messages dead-lettered long ago."""
    dedup, jitter = Dedup("etl"), random.Random(7)
    envelopes = [an_envelope() for _ in range(400)]
    by_key = {envelope.idempotency_key: envelope for envelope in envelopes}
    given_up, forgotten = envelopes[:200], [an_envelope() for _ in range(1_500)]
    async with sessions.begin() as session:
        await first_time(session, dedup, *forgotten)
        for envelope in given_up:
            await dedup.record_failed(session, envelope, attempt=4)
    for some in (given_up, forgotten[:750], forgotten[750:]):
        await age(sessions, 40, *some)
    applied: list[str] = []
    written = asyncio.Event()

    async def write() -> None:
        for _ in range(15):
            async with sessions.begin() as session:
                mine = jitter.sample(envelopes, 60)
                found = await first_time(session, dedup, *mine)
            applied.extend(found)

    async def purge() -> int:
        rows = 0
        while not written.is_set():
            rows += sum(await purge_all(Retention(engine, "etl", older_than=MONTH, horizon=MONTH)))
        return rows

    purging = [asyncio.create_task(purge()) for _ in range(2)]
    await asyncio.gather(*(write() for _ in range(8)))
    written.set()
    rows = sum([await task for task in purging])

    assert len(applied) == len(set(applied))
    assert rows >= len(forgotten)
    assert await keys_of(sessions) == {key for key in applied if key in by_key}


async def test_the_age_of_the_oldest_row_is_the_consumers_own(engine, sessions):
    dedup, old, older = Dedup("etl"), an_envelope(), an_envelope()
    async with engine.connect() as connection:
        assert await dedup_statistics.oldest_row(connection, "etl") is None
    await complete(sessions, dedup, old)
    await complete(sessions, Dedup("audit"), older)
    await age(sessions, 2, old)
    await age(sessions, 9, older)

    async with engine.connect() as connection:
        oldest = await dedup_statistics.oldest_row(connection, "etl")

    assert oldest is not None
    assert timedelta(days=2) <= oldest < timedelta(days=2, minutes=5)


async def test_statistics_count_by_status_and_by_type(engine, sessions):
    dedup = Dedup("etl")
    for event_type in ("a", "b"):
        await complete(sessions, dedup, an_envelope(type=event_type))
    envelope = an_envelope(type="a")
    async with sessions.begin() as session:
        await first_time(session, dedup, envelope)
    await add_duration(sessions, dedup, envelope.idempotency_key, timedelta(seconds=0.5))
    async with sessions.begin() as session:
        await dedup.record_failed(session, an_envelope(type="a"), attempt=4)
    await complete(sessions, Dedup("audit"), an_envelope())

    async with engine.connect() as connection:
        statistics = await dedup_statistics.statistics(connection, "etl")

    assert statistics.by_status == {"completed": 3, "failed": 1}
    assert statistics.completed_by_type == {"a": 2, "b": 1}
    assert statistics.seconds_by_type == {"a": 0.5}


async def test_only_messages_that_were_not_completed_are_new(sessions):
    dedup = Dedup("etl")
    old, new = [an_envelope() for _ in range(20)], [an_envelope() for _ in range(20)]
    async with sessions.begin() as session:
        await first_time(session, dedup, *old)

    async with sessions.begin() as session:
        found = await first_time(session, dedup, *old, *new)

    assert found == {envelope.idempotency_key for envelope in new}


async def test_recording_a_duration_waits_for_no_locked_row(sessions):
    dedup, held, free = Dedup("etl"), an_envelope(), an_envelope()
    async with sessions.begin() as session:
        await first_time(session, dedup, held, free)
    if sessions.kw["bind"].dialect.name == "sqlite":
        return  # there is one writer at a time

    async with sessions.begin() as holder:
        await holder.execute(
            sa.select(processed_messages)
            .where(processed_messages.c.idempotency_key == held.idempotency_key)
            .with_for_update()
        )
        async with sessions.begin() as session:
            each = {e.idempotency_key: timedelta(seconds=1) for e in (held, free)}
            await record_durations(await session.connection(), "etl", each)

    async with sessions() as session:
        rows = (await session.execute(sa.select(processed_messages))).all()
    assert {row.idempotency_key: row.processing_duration_seconds for row in rows} == {
        held.idempotency_key: None,
        free.idempotency_key: 1.0,
    }


async def test_batches_with_shuffled_keys_in_common_wait_and_never_deadlock(engine, sessions):
    """Eight concurrent transactions record the same keys, each in another order."""
    dedup, envelopes = Dedup("etl"), [an_envelope() for _ in range(50)]
    jitter = random.Random(7)

    async def batch() -> int:
        shuffled = jitter.sample(envelopes, len(envelopes))
        async with sessions.begin() as session:
            return len(await first_time(session, dedup, *shuffled))

    found = await asyncio.gather(*(batch() for _ in range(8)))

    assert sorted(found) == [0] * 7 + [50]
