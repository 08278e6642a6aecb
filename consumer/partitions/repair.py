"""
Declares the partitions of a consumer again from time to time, as the topology monitor does with
its other queues, and takes the steps that a command has left undone.
"""

import asyncio
from datetime import timedelta

from consumer.partitions.scaling import Scaling
from consumer.telemetry import Telemetry
from outbox.errors import BrokerUnavailable, DatabaseUnavailable, TopologyMismatch, Unavailable
from outbox.runtime.service import pause

REPAIR_EVERY = timedelta(seconds=15)
FIRST_AFTER = timedelta(seconds=2)
"""The first process of a consumer unbinds the work queue then, once that is drained."""
ANSWERS_WITHIN = timedelta(seconds=30)
_WORK = "partitions"


class PartitionRepair:
    """Repairs the topology by *scaling*; a consumer without partitions gets so many *declared*."""

    def __init__(
        self,
        scaling: Scaling,
        *,
        declared: int,
        telemetry: Telemetry,
        every: timedelta = REPAIR_EVERY,
    ) -> None:
        self._scaling = scaling
        self._declared = declared
        self._report = telemetry.availability
        self._every = every

    async def run(self, stop: asyncio.Event) -> None:
        """Repair until *stop* is set; a failure is logged, and the next repair follows."""
        wait = min(FIRST_AFTER, self._every)
        while not stop.is_set():
            await pause(stop, wait)
            wait = self._every
            if not stop.is_set():
                self._report.background(_WORK, await self._failure())

    async def _failure(self) -> Unavailable | None:
        """Repair once; returns why it could not be done."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN.total_seconds()):
                await self._scaling.begin(self._declared)
        except (BrokerUnavailable, DatabaseUnavailable) as error:
            return error
        except TopologyMismatch as mismatch:
            return BrokerUnavailable(str(mismatch))
        except TimeoutError:
            return BrokerUnavailable("the broker or the database does not answer")
        return None
