"""
Leases, in both databases.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer.handler import Lease, OnLeaseExpired
from consumer.storage.dedup import Dedup
from consumer.storage.leases import Busy, Claim, Completed, Expired, Held, Leases
from consumer.storage.tables import processed_messages
from outbox.database_time import database_now, now_plus
from outbox.wire import row_codec
from outbox.wire.envelope import Envelope
from tests.support.builders import an_event
from tests.support.eventually import eventually

Sessions = async_sessionmaker[AsyncSession]

RETRY = Lease(timedelta(minutes=1), OnLeaseExpired.RETRY)
DEAD_LETTER = Lease(timedelta(minutes=1), OnLeaseExpired.DEAD_LETTER)
SHORT_REPEAT = Lease(timedelta(seconds=1), OnLeaseExpired.RETRY)
SHORT_STOP = Lease(timedelta(seconds=1), OnLeaseExpired.DEAD_LETTER)
MINE, OTHER = uuid4(), uuid4()
A_SECOND = timedelta(seconds=1)


class Clerk:
    """The leases of a consumer on one message; each call is one transaction."""

    def __init__(self, sessions: Sessions, *, consumer: str = "mail") -> None:
        row = {"exchange": None, "content_encoding": None, **row_codec.to_row(an_event())}
        self.envelope: Envelope = row_codec.from_row(row)
        self.sessions = sessions
        self.leases = Leases(consumer)

    async def claim(self, lease: Lease, owner: UUID = MINE, attempt: int = 1) -> Claim:
        async with self.sessions.begin() as session:
            return await self.leases.claim(
                session, self.envelope, lease, owner=owner, attempt=attempt
            )

    async def extend(self, lease: Lease, owner: UUID = MINE) -> bool:
        async with self.sessions.begin() as session:
            return await self.leases.extend(session, self.envelope, lease, owner=owner)

    async def complete(self, owner: UUID = MINE) -> bool:
        async with self.sessions.begin() as session:
            return await self.leases.complete(session, self.envelope, owner=owner, took=A_SECOND)

    async def release(self, owner: UUID = MINE) -> bool:
        async with self.sessions.begin() as session:
            return await self.leases.release(session, self.envelope, owner=owner)

    async def end_lease(self) -> None:
        """Make the lease expire now, by the database's clock."""
        async with self.sessions.begin() as session:
            await session.execute(
                sa.update(processed_messages).values(lease_until=now_plus(sa.literal(-1.0)))
            )

    async def row(self) -> sa.Row[Any]:
        async with self.sessions() as session:
            return (await session.execute(sa.select(processed_messages))).one()

    def is_over_in(self, session: AsyncSession) -> Callable[[], Awaitable[bool]]:
        async def is_over() -> bool:
            over = processed_messages.c.lease_until < database_now()
            return bool(await session.scalar(sa.select(over)))

        return is_over


@pytest.fixture
def clerk(engine: AsyncEngine) -> Clerk:
    return Clerk(async_sessionmaker(engine))


async def test_the_first_claim_gets_the_lease_and_others_get_the_remaining_time(clerk):
    assert await clerk.claim(RETRY) == Held(MINE)

    busy = await clerk.claim(RETRY, OTHER)

    assert isinstance(busy, Busy)
    assert timedelta(seconds=50) < busy.remaining <= RETRY.duration
    row = await clerk.row()
    assert (row.status, row.owner, row.attempts) == ("processing", MINE, 1)


@pytest.mark.parametrize("lease", [RETRY, DEAD_LETTER], ids=["repeat", "stop"])
async def test_a_completed_message_is_never_leased_again(clerk, lease):
    await clerk.claim(lease)

    assert await clerk.complete()

    assert await clerk.claim(lease, OTHER, attempt=2) == Completed()
    row = await clerk.row()
    assert (row.status, row.owner, row.lease_until, row.attempts) == ("completed", None, None, 1)
    assert row.processing_duration_seconds == 1


async def test_a_message_completed_in_a_transaction_is_not_leased(clerk):
    async with clerk.sessions.begin() as session:
        key = clerk.envelope.idempotency_key
        await Dedup("mail").record_completed(session, {key: (clerk.envelope, 1)})

    assert await clerk.claim(RETRY) == Completed()


@pytest.mark.parametrize("lease", [RETRY, DEAD_LETTER], ids=["repeat", "stop"])
async def test_a_released_lease_can_be_claimed_at_once(clerk, lease):
    await clerk.claim(lease)

    assert await clerk.release()

    assert (await clerk.row()).status == "failed"
    assert await clerk.claim(lease, OTHER, attempt=2) == Held(OTHER)
    assert (await clerk.row()).attempts == 2


async def test_an_owner_that_got_no_reply_can_repeat_its_claim(clerk):
    """The reply to its COMMIT was lost. Otherwise the message would be dead-lettered unhandled."""
    await clerk.claim(SHORT_STOP)
    await clerk.end_lease()

    assert await clerk.claim(DEAD_LETTER) == Held(MINE)
    assert isinstance(await clerk.claim(DEAD_LETTER, OTHER), Busy)


async def test_an_expired_lease_is_taken_over_if_its_policy_is_retry(clerk):
    await clerk.claim(SHORT_REPEAT)
    await clerk.end_lease()

    assert await clerk.claim(SHORT_REPEAT, OTHER) == Held(OTHER)


async def test_an_expired_lease_is_reported_if_its_policy_is_dead_letter(clerk):
    await clerk.claim(SHORT_STOP)
    assert isinstance(await clerk.claim(SHORT_STOP, OTHER), Busy)
    await clerk.end_lease()

    assert await clerk.claim(SHORT_STOP, OTHER) == Expired()
    assert (await clerk.row()).owner == MINE


async def test_an_extended_lease_has_not_expired(clerk):
    await clerk.claim(SHORT_STOP)

    assert await clerk.extend(DEAD_LETTER)

    busy = await clerk.claim(DEAD_LETTER, OTHER)
    assert isinstance(busy, Busy)
    assert busy.remaining > timedelta(seconds=50)


async def test_an_expired_lease_stays_with_its_owner_until_another_takes_it(clerk):
    """A database outage that is longer than the lease must not cause a second call."""
    await clerk.claim(SHORT_REPEAT)
    await clerk.end_lease()

    assert await clerk.extend(RETRY)

    assert isinstance(await clerk.claim(RETRY, OTHER), Busy)


async def test_an_owner_that_lost_its_lease_changes_no_row(clerk):
    await clerk.claim(SHORT_REPEAT)
    await clerk.end_lease()
    await clerk.claim(RETRY, OTHER)
    before = await clerk.row()

    assert not await clerk.extend(RETRY)
    assert not await clerk.complete()
    assert not await clerk.release()

    assert await clerk.row() == before


async def test_a_completed_or_released_lease_has_no_owner(clerk):
    await clerk.claim(RETRY)
    await clerk.release()
    assert not await clerk.extend(RETRY)
    assert not await clerk.complete()

    await clerk.claim(RETRY)
    await clerk.complete()
    assert not await clerk.release()
    assert (await clerk.row()).status == "completed"


async def test_a_replayed_dead_letter_can_be_leased(clerk):
    async with clerk.sessions.begin() as session:
        await Dedup("mail").record_failed(session, clerk.envelope, attempt=4)

    assert await clerk.claim(DEAD_LETTER) == Held(MINE)


async def test_one_of_many_concurrent_claims_gets_the_lease(clerk):
    found = await asyncio.gather(*(clerk.claim(RETRY, uuid4()) for _ in range(10)))

    assert sorted(type(each).__name__ for each in found) == ["Busy"] * 9 + ["Held"]


async def test_consumers_share_no_rows(clerk):
    other = Clerk(clerk.sessions, consumer="audit")
    other.envelope = clerk.envelope

    assert await clerk.claim(RETRY) == Held(MINE)
    assert await other.claim(RETRY, OTHER) == Held(OTHER)


class Slow:
    """A session that calls *passes* after its first statement."""

    def __init__(self, session: AsyncSession, passes: Callable[[], Awaitable[object]]) -> None:
        self._session = session
        self._passes = [passes]
        self.get_bind = session.get_bind

    async def execute(self, statement: Any) -> Any:
        result = await self._session.execute(statement)
        while self._passes:
            await self._passes.pop()()
        return result


async def test_a_lease_that_expires_during_a_claim_goes_to_the_next_claim(clerk):
    """A process that waited for the end of the lease claims at exactly this moment."""
    await clerk.claim(SHORT_REPEAT)

    async with clerk.sessions.begin() as session:
        slow: Any = Slow(session, lambda: eventually(clerk.is_over_in(session)))
        found = await clerk.leases.claim(
            slow, clerk.envelope, SHORT_REPEAT, owner=OTHER, attempt=1
        )

    assert found == Busy(timedelta(0))
    assert await clerk.claim(SHORT_REPEAT, OTHER) == Held(OTHER)
