"""
Observing the embedded broker: copies of an observer, fetched into memory while it lasts.
"""

import asyncio
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial

from outbox.errors import BrokerUnavailable
from outbox.transports.observation import MOST_COPIES, Copy, CopyBuffer
from outbox.transports.sqlite import observers, schema
from outbox.transports.sqlite.connection import CLOSE_SECONDS, SqliteConnection
from outbox.transports.sqlite.subscription import Intervals
from outbox.transports.topology import Binding

_LEASE_LOST = "the lease of the observer was lost"


class SqliteObservation:
    """Copies of the messages that match *bindings*; with their bodies if *bodies* is set."""

    def __init__(
        self,
        connection: SqliteConnection,
        bindings: Sequence[Binding],
        *,
        bodies: bool,
        intervals: Intervals,
    ) -> None:
        self._connection = connection
        self._bindings = bindings
        self._bodies = bodies
        self._intervals = intervals
        self._observer = 0
        self._buffer = CopyBuffer()
        self._missed_in_file = 0
        self._fetching: asyncio.Task[None] | None = None

    @property
    def missed(self) -> int:
        return self._buffer.missed + self._missed_in_file

    async def start(self) -> None:
        """Start receiving; raises TopologyMismatch if an exchange does not exist."""
        exchanges = {binding.exchange for binding in self._bindings}
        await self._connection.read(partial(_require, exchanges=exchanges - {""}))
        self._observer = await self._connection.write(
            partial(
                observers.join,
                bindings=self._bindings,
                bodies=self._bodies,
                lease=self._intervals.lease_milliseconds,
            ),
            durable=False,
        )
        self._fetching = asyncio.create_task(self._fetch_until_lost())

    async def take(self, limit: int) -> list[Copy]:
        return await self._buffer.take(limit)

    async def close(self) -> None:
        """End the observation, and remove its copies."""
        if self._fetching is None:
            return
        self._fetching.cancel()
        await asyncio.wait([self._fetching])
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.write(
                    partial(observers.leave, observer=self._observer),
                    wait=CLOSE_SECONDS,
                    durable=False,
                )

    async def _fetch_until_lost(self) -> None:
        problem = "the observation has ended"
        try:
            await self._fetch()
        except BrokerUnavailable as error:
            problem = str(error)
        finally:
            self._buffer.fail(problem)

    async def _fetch(self) -> None:
        clock = asyncio.get_running_loop().time
        extend_at = 0.0
        while True:
            is_waiting = await self._connection.read(
                partial(observers.waiting, observer=self._observer)
            )
            if is_waiting or clock() >= extend_at:
                extend_at = clock() + self._intervals.lease.total_seconds() / 4
                await self._take()
            await asyncio.sleep(self._intervals.poll.total_seconds())

    async def _take(self) -> None:
        taken = await self._connection.write(
            partial(
                observers.take,
                observer=self._observer,
                limit=MOST_COPIES,
                lease=self._intervals.lease_milliseconds,
            ),
            durable=False,
        )
        if taken is None:
            raise BrokerUnavailable(_LEASE_LOST)
        self._missed_in_file = taken.missed
        self._buffer.put(taken.copies)


def _require(db: sqlite3.Connection, _now: int, *, exchanges: Collection[str]) -> None:
    for exchange in sorted(exchanges):
        schema.require(db, "exchange", exchange)
