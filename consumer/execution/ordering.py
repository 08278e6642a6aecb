"""
The lanes of an ordered consumer: parking messages behind others of their lanes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from consumer.execution.decode import Attempt
from consumer.message_copies import waiting_since
from consumer.storage.failing import FailedAttempt, FailingMessages
from consumer.storage.parked import ParkedMessages
from consumer.verdict import PARKED, Parked, TryAgain
from outbox.database.errors import driver_errors_translated
from outbox.runtime.shield import shielded
from outbox.transports.delivery import Delivery

AT_ONCE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Lanes:
    """Lanes whose waiting messages are rows of *parked*; *failing* has those that have failed."""

    sessions: async_sessionmaker[AsyncSession]
    parked: ParkedMessages
    failing: FailingMessages

    @staticmethod
    def lane_of(delivery: Delivery) -> str | None:
        """The lane of *delivery*; None if it has no ordering key."""
        return delivery.headers.lane

    async def park_behind_others(
        self, session: AsyncSession, attempts: Sequence[Attempt]
    ) -> list[Attempt]:
        """
        Park those of *attempts* whose lanes have parked messages, and return the others.

        A copy of a completed message is not parked: its dedup row might be purged before its turn.

        Each lane has at most one of *attempts*.
        """
        free: list[Attempt] = []
        for attempt in attempts:
            lane, message = attempt.envelope.lane, attempt.delivery.message
            if (
                lane is None
                or not await self.parked.is_parked(session, lane)
                or await self.parked.is_completed(session, attempt.key)
            ):
                free.append(attempt)
            else:
                failed = attempt.number - 1
                await self.parked.park(session, message, lane=lane, attempts=failed, wait=AT_ONCE)
        return free

    async def park(self, delivery: Delivery, lane: str, verdict: TryAgain) -> Parked:
        """
        Park the message of *delivery* in its lane until its next attempt.

        Raises DatabaseUnavailable.
        """
        attempts = max(verdict.attempt, delivery.headers.failed_attempts)
        with driver_errors_translated():
            async with self.sessions() as session:
                message = waiting_since(delivery.message, verdict.unsupported_since)
                await self.parked.park(
                    session, message, lane=lane, attempts=attempts, wait=verdict.delay
                )
                if verdict.summary is not None:
                    failed = FailedAttempt(message, attempts, verdict.delay, verdict.summary)
                    await self.failing.record(session, failed)
                await shielded(session.commit())
        return PARKED
