"""
Turns of an ordered consumer's handlers: beside others, or alone.

Its deliveries and its parked messages are handled by two loops of one process. A message that may
end the process is handled alone, so that no other message is in flight when the process ends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from consumer.execution.delivery_batch import BatchExecutor, DeliveryBatch
from consumer.verdict import Verdict


class Turns:
    """Turns in the order in which they are asked for; those beside others run side by side."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._running = 0
        self._ended = asyncio.Event()

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """A turn beside others, after one that is alone or waits to be."""
        async with self._door:
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._ended.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """A turn after those that have begun; no other one begins before its end."""
        async with self._door:
            while self._running:
                self._ended.clear()
                await self._ended.wait()
            yield


class InTurn:
    """*executor*, in *turns* beside others."""

    def __init__(self, executor: BatchExecutor, turns: Turns) -> None:
        self._executor = executor
        self._turns = turns

    async def execute(self, batch: DeliveryBatch) -> list[Verdict]:
        """Like `Executor.execute`."""
        async with self._turns.beside_others():
            return await self._executor.execute(batch)
