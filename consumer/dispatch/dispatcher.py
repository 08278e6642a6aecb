"""
Where the deliveries of one subscription are worked off.

    subscription ──take──▶ board ──unit──▶ attempt ──verdicts──▶ settlement
                             ▲                                       │
                             └──────────── looked at later ──────────┘

- Handlers run in tasks of their own, at most *concurrency* at a time.
- The first deliveries come one at a time, until there is one that had not been delivered before:
  a message that ends each process that takes it uses up its own delivery limit, and not that of
  its neighbours.
- What waits too long for its handler, because a circuit breaker is open, is exchanged for a fresh
  copy before the broker loses its patience.
"""

import asyncio
from datetime import timedelta
from functools import partial

from consumer.database_retry import LONGEST, Patience
from consumer.dispatch.delivery_queue import Board
from consumer.dispatch.settlement import Settlement
from consumer.execution.executor import Attempts
from consumer.execution.work_unit import Unit
from consumer.verdict import Verdict, Wait, has_failed, is_failure
from outbox.errors import BrokerUnavailable
from outbox.runtime.service import pause
from outbox.runtime.shield import uninterrupted
from outbox.transports.base import Subscription

_TAKEN_AT_ONCE = 1_000


class Desk:
    """
    Works off what *subscription* delivers, until it ends.

    Args:
        board: An empty one, which knows how its handlers have fared and is left empty.
        concurrency: How many units are handled at a time.
        prefetch: How many deliveries are taken ahead, once it is safe to.
        widened: Whether the subscription takes so many from the start.

    """

    def __init__(
        self,
        subscription: Subscription,
        *,
        board: Board,
        attempts: Attempts,
        settlement: Settlement,
        patience: Patience,
        concurrency: int,
        prefetch: int,
        widened: bool,
    ) -> None:
        self._subscription = subscription
        self._board = board
        self._attempts = attempts
        self._settlement = settlement
        self._patience = patience
        self._free = concurrency
        self._prefetch = prefetch
        self._widened = widened
        self._leaving = asyncio.Event()
        self._ending = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None

    async def work(self, stop: asyncio.Event) -> None:
        """
        Return once *stop* is set and everything in flight is done, or the subscription is lost.

        Also returns when the database has been away for very long.
        """
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._leave_when(stop)),
                group.create_task(self._leave_when(self._leaving)),
                group.create_task(self._refresh()),
            ]
            try:
                await self._take_in(group)
            finally:
                self._ending.set()
                self._silence()
                for helper in helpers:
                    helper.cancel()
            await self._release()
        # What was in flight may have been put back meanwhile.
        await self._release()

    async def _take_in(self, group: asyncio.TaskGroup) -> None:
        try:
            while deliveries := await self._subscription.take(_TAKEN_AT_ONCE):
                self._board.put(deliveries, self._now())
                self._begin(group)
                if not self._widened and not all(each.redelivered for each in deliveries):
                    await self._widen()
        except BrokerUnavailable:
            # What was not acked comes again; of that, what was committed is dropped as duplicate.
            return

    async def _widen(self) -> None:
        self._widened = True
        if self._prefetch > 1:
            await self._subscription.widen(self._prefetch)

    def _begin(self, group: asyncio.TaskGroup) -> None:
        """Begin as many units as there is room for, and come back when time allows more."""
        self._silence()
        while self._free and not self._ending.is_set():
            unit = self._board.take(self._now())
            if unit is None:
                at = self._board.take_at()
                if at is not None:
                    loop = asyncio.get_running_loop()
                    self._alarm = loop.call_at(at, self._begin, group)
                return
            self._free -= 1
            group.create_task(self._handle(unit, group))

    async def _handle(self, unit: Unit, group: asyncio.TaskGroup) -> None:
        try:
            verdicts = await self._verdicts(unit)
            if verdicts is None:
                self._leaving.set()
            else:
                await self._settle(unit, verdicts)
        except BrokerUnavailable:
            # As above; whoever takes in the next ones notices it too.
            pass
        except BaseException:
            # A handler may also have cancelled this task, of which nobody else would take notice.
            self._ending.set()
            self._leaving.set()
            raise
        self._free += 1
        self._begin(group)

    async def _verdicts(self, unit: Unit) -> list[Verdict] | None:
        """
        Verdicts on the deliveries of *unit*, or None if the database was away for too long.

        While the circuit breaker is open a failure counts for no message.
        """
        verdicts: list[Verdict] | None = None
        try:
            make = partial(self._attempts.make, unit)
            verdicts = await self._patience.until_done(make, self._ending)
        finally:
            self._board.ended(unit, self._now(), failed=has_failed(verdicts or []))
        if verdicts is None or not self._board.is_patient(unit.handler):
            return verdicts
        return [Wait(timedelta(0)) if is_failure(verdict) else verdict for verdict in verdicts]

    async def _settle(self, unit: Unit, verdicts: list[Verdict]) -> None:
        waits = await self._settlement.settle(
            self._subscription, unit.deliveries, verdicts, self._ending
        )
        if waits is None:
            self._leaving.set()
            return
        if not self._widened and any(wait is not None for wait in waits):
            await self._widen()
        for waiting, wait in zip(unit.waiting, waits, strict=True):
            if wait is None:
                self._board.settled(waiting)
            else:
                self._board.put_back(waiting, self._now() + wait.total_seconds())

    async def _refresh(self) -> None:
        while not self._ending.is_set():
            await pause(self._ending, LONGEST / 10)
            stale = self._board.stale(self._now() - LONGEST.total_seconds())
            try:
                left = await self._settlement.exchange(self._subscription, stale)
            except BrokerUnavailable:
                return
            self._board.put(left, self._now())

    async def _leave_when(self, event: asyncio.Event) -> None:
        await event.wait()
        try:
            # Otherwise the broker goes on delivering to us what we have no use for.
            await uninterrupted(self._subscription.stop())
        except BrokerUnavailable:
            return

    async def _release(self) -> None:
        left = self._board.clear()
        if self._board.has_lanes:
            # What goes back by itself comes behind what is not here yet, or before what is in
            # flight. When the subscription ends, all of it goes back in its order.
            return
        try:
            for delivery in left:
                await self._subscription.release(delivery)
        except BrokerUnavailable:
            return

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
