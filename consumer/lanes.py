"""
The lanes of an ordered consumer: which one a delivery is in, and how it waits there.
"""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from consumer.parking import Parking
from consumer.verdict import PARKED, Parked, TryAgain
from outbox import codec, copies
from outbox.codec import WireMessage
from outbox.runtime.engine import translated, uninterrupted
from outbox.transports.base import Delivery


@dataclass(frozen=True, slots=True)
class Lanes:
    """Lanes whose waiting messages are in *parking*."""

    sessions: async_sessionmaker[AsyncSession]
    parking: Parking

    @staticmethod
    def lane_of(delivery: Delivery) -> str | None:
        """The lane of *delivery*; None if it has no ordering key."""
        return codec.lane_of(delivery.message)

    async def park(self, message: WireMessage, lane: str, verdict: TryAgain) -> Parked:
        """
        Have *message* wait for its next attempt, at the head of its lane.

        Raises DatabaseUnavailable.
        """
        attempts = max(verdict.attempt, copies.attempt_of(message))
        with translated():
            async with self.sessions() as session:
                await self.parking.park(
                    session, message, lane=lane, attempts=attempts, wait=verdict.delay
                )
                await uninterrupted(session.commit())
        return PARKED
