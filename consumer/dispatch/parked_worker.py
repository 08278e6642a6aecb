"""
The loop of an ordered consumer over its parked messages, lane by lane.

Each attempt is a transaction of `consumer.execution.parked`, after one that commits its strike.
"""

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta

from consumer.database_retry import DatabaseRetry
from consumer.dispatch.parked_strikes import ParkedStrikes, Suspect
from consumer.dispatch.turns import Turns
from consumer.execution.executor import TRIALS
from consumer.execution.parked import ParkedSteps
from consumer.execution.reading import IN_CLEAR, Reading
from consumer.execution.transaction import transact
from consumer.storage.parked import ParkedMessage
from consumer.verdict import Verdict
from outbox.database.errors import raise_translated
from outbox.errors import SessionLost
from outbox.runtime.service import pause

POLL_EVERY = timedelta(seconds=1)
EXPIRE_EVERY = timedelta(minutes=10)
LANES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class ParkedWorker:
    """
    Attempts parked messages when they are due, with *strikes* and in *turns* of the process.

    *lanes_at_once* is the number of lanes that are attempted side by side. If messages may be
    *expiring*, those that wait for an attempt are looked through every 10 minutes.
    """

    strikes: ParkedStrikes
    turns: Turns
    lanes_at_once: int
    database_retry: DatabaseRetry
    expiring: bool = False
    _losses: Counter[int] = field(default_factory=Counter, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Attempt messages until *stop* is set; attempts in flight are finished first."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.lanes_at_once):
                group.create_task(self._poll(stop))
            if self.expiring:
                group.create_task(self._hasten(stop))
        await self.strikes.stopped()

    async def _poll(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            found = await self.database_retry.run(self.attempt_next, stop, longest=timedelta.max)
            if not found:
                await pause(stop, POLL_EVERY)

    async def _hasten(self, stop: asyncio.Event) -> None:
        hasten = self.strikes.hasten_expired
        while not stop.is_set():
            await self.database_retry.run(hasten, stop, longest=timedelta.max)
            await pause(stop, EXPIRE_EVERY)

    async def attempt_next(self) -> bool:
        """
        Attempt the first message of a lane that is due. Returns False if there is none.

        Raises DatabaseUnavailable and KeysUnavailable.
        """
        try:
            async with self.turns.beside_others(), self.strikes.begin() as steps:
                return await self._attempt(steps)
        except Suspect as suspect:
            message = suspect.message
        async with self.turns.alone(), self.strikes.begin(message) as steps:
            await self._attempt(steps)
        return True

    async def _attempt(self, steps: ParkedSteps | None) -> bool:
        if steps is None:
            return False
        outcome: Verdict | BaseException | None
        try:
            async with self._reading(steps) as steps.reading:
                outcome = await transact(self.strikes.context.executor.units, steps)
        except SessionLost as lost:
            if not self._is_lost_too_often(steps.message):
                raise
            outcome = lost
        if isinstance(outcome, BaseException):
            steps = steps.after(outcome)
            outcome = await self._settle(steps)
        await self._settled(steps, outcome)
        return True

    def _reading(self, steps: ParkedSteps) -> AbstractAsyncContextManager[Reading]:
        """A message that is given up needs no keys, and does not wait for them."""
        if steps.attempted is not None:
            return nullcontext(IN_CLEAR)
        return self.strikes.context.reading(steps.message)

    async def _settle(self, steps: ParkedSteps) -> Verdict | None:
        outcome = await transact(self.strikes.context.executor.units, steps)
        if isinstance(outcome, BaseException):
            raise_translated(outcome)
        return outcome

    async def _settled(self, steps: ParkedSteps, verdict: Verdict | None) -> None:
        message, attempted = steps.message, steps.attempted
        self._losses.pop(message.id, None)
        await self.strikes.settled(message, verdict)
        if verdict is None:
            return
        if attempted is not None and attempted.handler is not None:
            durations = attempted.durations
            routing_keys = dict.fromkeys(durations, message.message.routing_key)
            self.strikes.context.executor.record_success(
                attempted.handler, durations, routing_keys
            )
        self.strikes.context.executor.telemetry.settled([(message.message, verdict)])

    def _is_lost_too_often(self, message: ParkedMessage) -> bool:
        """
        Whether so many sessions were lost with *message* that its handler counts as the cause.

        A single session may also be lost because the database restarts or an operator ends it.
        """
        self._losses[message.id] += 1
        return self._losses[message.id] >= TRIALS
