"""
Periodic work beside the relay: promoting due rows, measuring the backlog.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from outbox.errors import Unavailable
from outbox.runtime.service import pause
from relay.storage.base import OutboxStore
from relay.telemetry import Telemetry
from relay.wakeup import WakeSignal

LOOK_EVERY = timedelta(seconds=1)
"""
The longest time in which a row that waits for a shorter time may be overlooked.

Only the first look finds out when a row is due: from then on the relay sleeps until that moment. A
relay that the database notifies of inserted rows looks sooner.
"""
LOOK_AFTER_INSERT = timedelta(milliseconds=250)
"""Not at once: the rows that are ready go first, and one look serves many inserts."""
SAMPLE_EVERY = timedelta(seconds=15)


class Maintenance:
    """
    Promotes due rows of *store* and reports its backlog.

    Any number of relays may do this at the same time; a row is promoted once.
    """

    def __init__(
        self, *, store: OutboxStore, wake_signal: WakeSignal, telemetry: Telemetry
    ) -> None:
        self._store = store
        self._wake_signal = wake_signal
        self._telemetry = telemetry
        self._inserted = asyncio.Event()

    def inserted(self) -> None:
        """Rows have been inserted, and some of them may soon be due."""
        self._inserted.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._promote(stop))
            group.create_task(self._sample(stop))

    async def _promote(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                wait = await self._promote_due()
            except Unavailable as error:
                self._telemetry.availability.background("promote", error)
                await pause(stop, SAMPLE_EVERY)
            else:
                self._telemetry.availability.background("promote", None)
                await self._pause(wait)

    async def _promote_due(self) -> timedelta:
        """Promote the rows that are due; returns how long to wait for the next ones."""
        self._inserted.clear()
        due_in = await self._store.due_in()
        if due_in is None or due_in > timedelta(0):
            return LOOK_EVERY if due_in is None else min(due_in, LOOK_EVERY)
        if await self._store.promote():
            self._wake_signal.notify()
            return timedelta(0)
        # Another relay has promoted them, or holds them.
        return LOOK_EVERY

    async def _pause(self, wait: timedelta) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait.total_seconds()):
                await self._inserted.wait()
                await asyncio.sleep(LOOK_AFTER_INSERT.total_seconds())

    async def _sample(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                self._telemetry.sampled(await self._store.backlog())
            except Unavailable as error:
                self._telemetry.availability.background("sample", error)
            else:
                self._telemetry.availability.background("sample", None)
            await pause(stop, SAMPLE_EVERY)
