"""
Begins attempts at parked messages, and counts the processes that end with one.

    choose     the first message of a lane that is due
    strike     committed before its handler is called, in a transaction of its own
    attempt    the transaction of `consumer.execution.parked` deletes the strikes when it settles
    stop       the process is stopped: the strike is taken back

Of a message with 2 strikes or more, only a process that has lived for `hold_seconds` begins an
attempt, alone. So a further strike is evidence, as for a redelivery; see `suspects`. Meanwhile the
message is not due: its lane waits, and other lanes go on.

A message that has been parked for longer than MQ_PARKED_BODY_RETENTION_DAYS is given up before
any of that. It is the first of its lane, so dead letters have the order of the lane. Its
transaction deletes the row only if no attempt was recorded since it was chosen: the outcome of an
attempt that another process has begun meanwhile counts.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from consumer.dispatch.suspects import SUSPECT_FROM, hold_seconds, least_limit
from consumer.execution.parked import ParkedSteps
from consumer.execution.parked_context import ParkedContext, ParkedResult
from consumer.execution.unit_of_work import UnitOfWork
from consumer.storage.parked import ParkedMessage
from consumer.verdict import DELIVERY_LIMIT, DeadLetter, Verdict
from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.expired_body import BODY_EXPIRED
from outbox.errors import DatabaseUnavailable
from outbox.runtime.shield import shielded

_CLAIMED_FOR = timedelta(seconds=1)
"""How long no other process chooses a suspect between its strike and the lock of its attempt."""


class Suspect(Exception):  # noqa: N818 - no error
    """The *message* that is due has to be begun alone."""

    def __init__(self, message: ParkedMessage) -> None:
        self.message = message
        super().__init__()


class ParkedStrikes:
    """
    The strikes of parked messages of *context*.

    *limit* is the number of strikes at which a message is given up.
    """

    def __init__(self, context: ParkedContext, limit: int) -> None:
        self.context = context
        self._limit = least_limit(limit)
        self._since: float | None = None
        # Their strikes are committed. After an outage of the database they are attempted again,
        # and get no second one.
        self._begun: set[int] = set()
        self._in_flight: set[int] = set()

    def lived_since(self, time: float) -> None:
        """Record when this process began, by the clock of the event loop; once."""
        self._since = time if self._since is None else self._since

    @asynccontextmanager
    async def begin(
        self, suspect: ParkedMessage | None = None
    ) -> AsyncIterator[ParkedSteps | None]:
        """
        The attempt at *suspect*, alone, or at the next message that is due; with a strike.

        A message at the limit, or one that is expired, is given up instead. None if no message is
        due.
        Raises Suspect or DatabaseUnavailable.
        """
        claimed: set[int] = set()
        try:
            yield await self._begin(suspect, claimed)
        except asyncio.CancelledError:
            await self._take_back(claimed)
            raise
        finally:
            self._in_flight -= claimed

    async def hasten_expired(self) -> None:
        """Make expired messages due; raises DatabaseUnavailable."""
        async with self._transaction() as work:
            await self.context.parked.hasten_expired(work.session)
            await work.commit()

    async def settled(self, message: ParkedMessage, verdict: Verdict | None) -> None:
        """Record *verdict*: the strikes are deleted. Without one, the strike is taken back."""
        if verdict is None:
            await self._take_back({message.id})
        self._begun.discard(message.id)

    async def stopped(self) -> None:
        """Take back the strikes of attempts that an outage of the database has interrupted."""
        await self._take_back(self._begun)

    async def _begin(self, suspect: ParkedMessage | None, claimed: set[int]) -> ParkedSteps | None:
        now = asyncio.get_running_loop().time()
        self.lived_since(now)
        async with self._transaction() as work:
            message = await self._choose(work, suspect)
            if message is None or message.id in self._in_flight:
                return None
            claimed.add(message.id)
            self._in_flight.add(message.id)
            expired = await self._if_expired(work, message)
            if expired is not None or message.id in self._begun:
                return ParkedSteps(self.context, message, expired)
            strikes = await self.context.begun.begin_parked(work.session, message.id)
            if strikes >= self._limit:
                given_up = ParkedResult(DeadLetter(message.attempts, DELIVERY_LIMIT))
                return ParkedSteps(self.context, message, given_up)
            hold = 0.0
            if strikes >= SUSPECT_FROM:
                hold = hold_seconds(strikes, self._limit) - (now - (self._since or now))
                if hold <= 0 and suspect is None:
                    raise Suspect(message)
                await self._postpone(work, message, hold)
            if hold <= 0:
                # Before the COMMIT: if its outcome is unknown, one strike less is better than two.
                self._begun.add(message.id)
            await work.commit()
        if hold <= 0:
            return ParkedSteps(self.context, message)
        return await self._begin(None, claimed)

    async def _if_expired(self, work: UnitOfWork, message: ParkedMessage) -> ParkedResult | None:
        if not await self.context.parked.is_expired(work.session, message):
            return None
        return ParkedResult(DeadLetter(message.attempts, BODY_EXPIRED), body_expired=True)

    async def _choose(
        self, work: UnitOfWork, suspect: ParkedMessage | None
    ) -> ParkedMessage | None:
        parked = self.context.parked
        if suspect is None:
            return next(iter(await parked.next_due(work.session, limit=1)), None)
        return suspect if await parked.lock(work.session, suspect) else None

    async def _postpone(self, work: UnitOfWork, message: ParkedMessage, hold: float) -> None:
        """Hold a suspect back, or keep it from other processes until its attempt has the lock."""
        wait = timedelta(seconds=hold) if hold > 0 else _CLAIMED_FOR
        if hold > 0:
            await self.context.begun.take_back_parked(work.session, message.id)
        await self.context.parked.postpone(
            work.session, message, attempts=message.attempts, wait=wait
        )

    async def _take_back(self, parked: Collection[int]) -> None:
        for each in self._begun.intersection(parked):
            self._begun.discard(each)
            with suppress(DatabaseUnavailable):
                await shielded(self._take_one_back(each))

    async def _take_one_back(self, parked: int) -> None:
        async with self._transaction() as work:
            await self.context.begun.take_back_parked(work.session, parked)
            await work.commit()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[UnitOfWork]:
        with driver_errors_translated():
            async with self.context.executor.units.begin() as work:
                yield work
