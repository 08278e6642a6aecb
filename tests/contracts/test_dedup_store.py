"""
What the dedup store does, in every database that it is used with.
"""

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer.dedup import Dedup
from consumer.tables import processed_messages
from outbox import codec
from outbox.event import Envelope
from tests.support.builders import an_event
from tests.support.eventually import eventually

Sessions = async_sessionmaker[AsyncSession]


def an_envelope(**changes) -> Envelope:
    return codec.from_row({**codec.to_row(an_event(**changes)), **EMPTY})


EMPTY = {"exchange": None, "content_encoding": None}


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine)


async def complete(sessions: Sessions, dedup: Dedup, envelope: Envelope) -> bool:
    async with sessions.begin() as session:
        return await dedup.first_time(session, envelope, attempt=1)


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
        await Dedup("etl").first_time(session, envelope, attempt=1)
        await session.rollback()

    assert await complete(sessions, Dedup("etl"), envelope)


async def test_consumers_do_not_know_of_each_other(sessions):
    envelope = an_envelope()

    assert await complete(sessions, Dedup("etl"), envelope)
    assert await complete(sessions, Dedup("audit"), envelope)


async def test_two_events_with_one_idempotency_key_are_one(sessions):
    assert await complete(sessions, Dedup("etl"), an_envelope(idempotency_key="same"))
    assert not await complete(sessions, Dedup("etl"), an_envelope(idempotency_key="same"))


async def test_a_message_that_was_given_up_may_still_be_completed(sessions):
    envelope, dedup = an_envelope(), Dedup("etl")
    async with sessions.begin() as session:
        await dedup.failed(session, envelope, attempt=4)
    assert (await row_of(sessions)).status == "failed"

    assert await complete(sessions, dedup, envelope)

    assert (await row_of(sessions)).status == "completed"


async def test_a_completed_message_never_becomes_failed(sessions):
    envelope, dedup = an_envelope(), Dedup("etl")
    await complete(sessions, dedup, envelope)

    async with sessions.begin() as session:
        await dedup.failed(session, envelope, attempt=4)

    assert (await row_of(sessions)).status == "completed"


async def test_the_row_says_what_was_done_and_how_long_it_took(sessions):
    envelope, dedup = an_envelope(correlation_id="c"), Dedup("etl")

    async with sessions.begin() as session:
        await dedup.first_time(session, envelope, attempt=2)
        await dedup.took(session, envelope, timedelta(seconds=1.5))

    row = await row_of(sessions)
    assert (row.consumer, row.idempotency_key) == ("etl", envelope.idempotency_key)
    assert (row.message_id, row.correlation_id, row.type) == (envelope.id, "c", envelope.type)
    assert (row.attempts, row.processing_duration_seconds) == (2, 1.5)


@pytest.mark.parametrize("first_commits", [True, False])
async def test_a_twin_waits_for_the_first_and_then_finds_it_done_or_not(sessions, first_commits):
    envelope, dedup = an_envelope(), Dedup("etl")
    async with sessions() as session:
        assert await dedup.first_time(session, envelope, attempt=1)
        twin = asyncio.create_task(complete(sessions, dedup, envelope))
        await asyncio.wait({twin}, timeout=0.2)
        assert not twin.done()

        await (session.commit() if first_commits else session.rollback())

    assert await twin is not first_commits


async def test_the_purge_forgets_what_is_older_than_the_retention_and_only_that(engine, sessions):
    dedup = Dedup("etl")
    await complete(sessions, dedup, an_envelope())
    await complete(sessions, Dedup("audit"), an_envelope())

    async def purge(older_than: timedelta) -> int:
        async with engine.begin() as connection:
            return await dedup.purge(connection, older_than=older_than)

    assert await purge(timedelta(hours=1)) == 0
    assert await eventually(lambda: purge(timedelta(milliseconds=1)), within=5) == 1
    assert (await row_of(sessions)).consumer == "audit"


async def test_statistics_count_by_status_and_by_type(engine, sessions):
    dedup = Dedup("etl")
    for event_type in ("a", "a", "b"):
        await complete(sessions, dedup, an_envelope(type=event_type))
    async with sessions.begin() as session:
        await dedup.failed(session, an_envelope(type="a"), attempt=4)
    await complete(sessions, Dedup("audit"), an_envelope())

    async with engine.connect() as connection:
        statistics = await dedup.statistics(connection)

    assert statistics.by_status == {"completed": 3, "failed": 1}
    assert statistics.completed_by_type == {"a": 2, "b": 1}
