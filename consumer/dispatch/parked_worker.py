"""
The loop of an ordered consumer over its parked messages, lane by lane.

Each attempt is a transaction of `consumer.execution.parked`.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from consumer.database_retry import DatabaseRetry
from consumer.execution.executor import TRIALS
from consumer.execution.parked import ParkedContext, ParkedSteps
from consumer.execution.transaction import transact
from consumer.storage.parked import ParkedMessage
from consumer.verdict import Verdict
from outbox.database.errors import raise_translated
from outbox.errors import SessionLost
from outbox.runtime.service import pause

POLL_EVERY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ParkedWorker:
    """
    Attempts parked messages when they are due.

    *lanes_at_once* is the number of lanes that are attempted side by side.
    """

    context: ParkedContext
    lanes_at_once: int
    database_retry: DatabaseRetry
    _losses: Counter[int] = field(default_factory=Counter, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Attempt messages until *stop* is set; attempts in flight are finished first."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.lanes_at_once):
                group.create_task(self._poll(stop))

    async def _poll(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            found = await self.database_retry.run(self.attempt_next, stop, longest=timedelta.max)
            if not found:
                await pause(stop, POLL_EVERY)

    async def attempt_next(self) -> bool:
        """
        Attempt the first message of a lane that is due. Returns False if there is none.

        Raises DatabaseUnavailable.
        """
        steps = ParkedSteps(self.context)
        outcome: Verdict | BaseException | None
        try:
            outcome = await transact(self.context.executor.units, steps)
        except SessionLost as lost:
            if steps.message is None or not self._is_lost_too_often(steps.message):
                raise
            outcome = lost
        if steps.message is None:
            return False
        if isinstance(outcome, BaseException):
            steps = steps.after(outcome)
            outcome = await self._settle(steps)
        self._settled(steps, outcome)
        return True

    async def _settle(self, steps: ParkedSteps) -> Verdict | None:
        outcome = await transact(self.context.executor.units, steps)
        if isinstance(outcome, BaseException):
            raise_translated(outcome)
        return outcome

    def _settled(self, steps: ParkedSteps, verdict: Verdict | None) -> None:
        message, attempted = steps.message, steps.attempted
        if message is None:
            return
        self._losses.pop(message.id, None)
        if verdict is None:
            return
        if attempted is not None and attempted.handler is not None:
            self.context.executor.record_success(attempted.handler, attempted.durations)
        self.context.executor.telemetry.settled([(message.message.type, verdict)])

    def _is_lost_too_often(self, message: ParkedMessage) -> bool:
        """
        Whether so many sessions were lost with *message* that its handler counts as the cause.

        A single session may also be lost because the database restarts or an operator ends it.
        """
        self._losses[message.id] += 1
        return self._losses[message.id] >= TRIALS
