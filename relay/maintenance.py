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

PROMOTE_EVERY = timedelta(milliseconds=250)
SAMPLE_EVERY = timedelta(seconds=15)


class Maintenance:
    """
    Promotes due rows of *store* and reports its backlog.

    Any number of relays may do this at the same time; a row is promoted once. An unavailable
    database is not reported here, because the relay reports it.
    """

    def __init__(
        self, *, store: OutboxStore, wake_signal: WakeSignal, telemetry: Telemetry
    ) -> None:
        self._store = store
        self._wake_signal = wake_signal
        self._telemetry = telemetry

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._promote(stop))
            group.create_task(self._sample(stop))

    async def _promote(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            promoted = 0
            try:
                promoted = await self._store.promote()
            except Unavailable:
                await pause(stop, SAMPLE_EVERY)
            if promoted:
                self._wake_signal.notify()
            else:
                await pause(stop, PROMOTE_EVERY)

    async def _sample(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(Unavailable):
                self._telemetry.sampled(await self._store.backlog())
            await pause(stop, SAMPLE_EVERY)
