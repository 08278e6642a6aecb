"""
Attempting the messages of an ordered consumer that wait in the database, lane by lane.

    BEGIN
    the first row of a lane that is due, locked: nobody else attempts this lane
    record that it is done, handler(message, session), remove the row
    COMMIT                the next row of the lane is due at once
    or, if that failed, in a transaction of its own: postpone the row, or give the message up
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from consumer.attempt import BEFORE_ALL, Attempts
from consumer.dead_letters import Burials
from consumer.handler import Handler
from consumer.opening import Attempt, open_delivery
from consumer.parking import Parked as Head
from consumer.parking import Parking
from consumer.patience import Patience
from consumer.transaction import call, raise_unless_failure
from consumer.verdict import DONE, DUPLICATE, GiveUp, TryAgain, Verdict, Wait
from outbox.copies import retried
from outbox.errors import TransactionEndedByHandler
from outbox.runtime.engine import is_contention, is_open, translated, uninterrupted
from outbox.runtime.service import pause
from outbox.transports.base import Delivery

LOOK_EVERY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Attendant:
    """
    Attends to what is in *parking*.

    Args:
        queue: Where its messages came from.
        lanes_at_once: How many lanes are attempted side by side.

    """

    handlers: Mapping[str, Handler]
    queue: str
    attempts: Attempts
    parking: Parking
    burials: Burials
    lanes_at_once: int
    patience: Patience

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set; attempts in flight are finished first."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.lanes_at_once):
                group.create_task(self._attend(stop))

    async def _attend(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            found = await self.patience.until_done(self.attempt_next, stop, longest=timedelta.max)
            if not found:
                await pause(stop, LOOK_EVERY)

    async def attempt_next(self) -> bool:
        """
        Attempt the first message of a lane that is due.

        Returns False if there is none, or others have held it up.
        Raises DatabaseUnavailable.
        """
        # Closing a session asks the database, too.
        with translated():
            async with self.attempts.sessions() as session:
                heads = await self.parking.next_due(session, limit=1)
                if not heads:
                    return False
                head = heads[0]
                delivery = self._delivery(head)
                handler = self.handlers.get(head.message.type or "")
                verdict = await self._make(session, head, delivery, handler)
            if verdict is None:
                return False
            if not isinstance(verdict, type(DONE)):
                verdict = await self._settle(head, delivery, verdict)
        if verdict is not None:
            self.attempts.telemetry.settled([(head.message.type, verdict)])
        return True

    def _delivery(self, head: Head) -> Delivery:
        message = retried(head.message, queue=self.queue, attempt=head.attempts)
        return Delivery(message, 0, redelivered=True)

    async def _make(
        self, session: AsyncSession, head: Head, delivery: Delivery, handler: Handler | None
    ) -> Verdict | None:
        """What becomes of *head*, which is gone already if it is done; None if it is held up."""
        try:
            now = datetime.now(UTC)
            # Its age was looked at when it came.
            opened = open_delivery(delivery, handler, now=now, oldest=BEFORE_ALL)
            if handler is None or not isinstance(opened, Attempt):
                return opened if not isinstance(opened, Attempt) else None
            return await self._carry_out(session, head, opened, handler)
        except BaseException as error:  # noqa: BLE001 - the user's code
            raise_unless_failure(error)
            if is_contention(error):
                return None
            return self.attempts.after_failure(handler, head.attempts + 1, error)

    async def _carry_out(
        self, session: AsyncSession, head: Head, attempt: Attempt, handler: Handler
    ) -> Verdict:
        entries = {attempt.key: (attempt.envelope, attempt.number)}
        fresh = await self.attempts.dedup.first_times(session, entries)
        durations: Mapping[str, timedelta] = {}
        transaction = session.sync_session.get_transaction()
        if fresh:
            durations = await call(handler, [attempt], session)
        if not is_open(session, transaction) or not await self.parking.remove(session, head):
            raise TransactionEndedByHandler
        await uninterrupted(session.commit())
        self.attempts.kept(handler, durations)
        return DONE if fresh else DUPLICATE

    async def _settle(self, head: Head, delivery: Delivery, verdict: Verdict) -> Verdict | None:
        """Returns what became of *head*; None if another process was faster."""
        async with self.attempts.sessions() as session:
            match verdict:
                case TryAgain(attempt=attempts, delay=delay):
                    done = await self.parking.postpone(
                        session, head, attempts=attempts, wait=delay
                    )
                case Wait(delay=delay):
                    done = await self.parking.postpone(
                        session, head, attempts=head.attempts, wait=delay
                    )
                case GiveUp(attempt=attempts, code=code):
                    await self.burials.within(
                        session, delivery.message, reason=code, attempts=attempts
                    )
                    done = await self.parking.remove(session, head)
                case _:
                    done = await self.parking.remove(session, head)
            if not done:
                return None
            await uninterrupted(session.commit())
        return verdict
