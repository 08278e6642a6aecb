"""
From one number of partitions to another; `consumer.partitions` explains the steps.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumer.partition_queues import PartitionQueues
from consumer.partitions.balance import is_open
from consumer.partitions.dead_lettering import DeadLettering
from consumer.storage.generations import Generation, Generations, State
from consumer.storage.partitions import Partitions, Shared
from outbox.database.errors import driver_errors_translated
from outbox.errors import ConfigurationError
from outbox.runtime.service import pause
from outbox.runtime.shield import commit
from outbox.transports.base import QueueDepth, Transport
from outbox.transports.topology import Topology

OVERLAP = timedelta(seconds=1)
"""How long both generations get each message."""

LOOK_EVERY = timedelta(milliseconds=200)

Say = Callable[[str], None]


class Scaling:
    """
    The steps from one generation of *consumer* to the next.

    *overlap* is how long both get each message, so that a message that the broker routed before
    the older one was unbound is in the next one too.
    Methods raise DatabaseUnavailable, BrokerUnavailable and TopologyMismatch, after which they may
    be called again.
    """

    def __init__(
        self,
        consumer: str,
        engine: AsyncEngine,
        transport: Transport,
        queues: PartitionQueues,
        dead_lettering: DeadLettering,
        *,
        overlap: timedelta = OVERLAP,
    ) -> None:
        self._consumer = consumer
        self._engine = engine
        self._transport = transport
        self._queues = queues
        self._dead_lettering = dead_lettering
        self._overlap = overlap
        self._generations = Generations(consumer)
        self._partitions = Partitions(consumer, engine)

    async def begin(self, partitions: int) -> int:
        """
        Lead the messages of a consumer to its partitions; if it has none yet, to so many.

        Returns the number that it has, once no step up to the fourth is undone.
        """
        while True:
            shared = await self._partitions.look()
            if not shared.generations:
                await self.plan(partitions)
                continue
            if (declared := shared.declared) is None:
                current = shared.current
                await self._repair(current)
                await self._unbind(shared)
                return current.partitions
            if not await self._switch(shared.current, declared):
                await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def verify(self) -> int:
        """
        The number of partitions of a consumer that may not declare its queues.

        Raises ConfigurationError if it has none yet.
        """
        shared = await self._partitions.look()
        if not shared.generations or (current := shared.current).number == 0:
            raise ConfigurationError(
                f"consumer {self._consumer}: its partitions are not declared: run `consumer scale`"
                " with a broker user that may configure its queues"
            )
        await self._transport.verify(self._queues.topology(current.number, current.partitions))
        return current.partitions

    async def plan(self, partitions: int) -> None:
        """Record the next generation, with so many *partitions*, if it is not recorded yet."""
        with driver_errors_translated():
            async with self._engine.connect() as connection:
                found = await self._generations.all(connection)
                if not found:
                    await self._generations.add(connection, Generation(0, 1, State.CURRENT))
                last = found[-1].number if found else 0
                following = Generation(last + 1, partitions, State.DECLARED)
                if not found or found[-1].state is State.CURRENT:
                    await self._generations.add(connection, following)
                await commit(connection)

    async def scale(self, partitions: int, stop: asyncio.Event, say: Say) -> bool:
        """
        Come to so many *partitions*; finishes first what another call has left or has begun.

        Before the first process there is nothing to finish: only a process drains the work queue.
        Calls *say* with each step. Returns False if *stop* is set before the end.
        """
        before: int | None = None
        while True:
            found = await self.begin(partitions)
            if before not in {None, found}:
                say(f"{found} partitions get all messages, instead of {before}")
            if found == partitions and (await self._partitions.look()).awaits_first_process:
                say("the first process handles the messages that were published before")
                return True
            if not await self._finish(stop, say):
                return False
            if found == partitions:
                return True
            before = found
            await self.plan(partitions)

    async def _switch(self, older: Generation, following: Generation) -> bool:
        """
        Lead messages to *following* too; *older* handles them up to its drain markers.

        Returns False if another process is doing it, or has done it.
        """
        async with self._step(older, following) as connection:
            if connection is None:
                return False
            number = following.number
            await self._transport.declare(self._queues.topology(number, following.partitions))
            await self._transport.declare(self._queues.routes(number))
            await asyncio.sleep(self._overlap.total_seconds())
            await self._generations.move(connection, older.number, State.DRAINING)
            await self._generations.move(connection, number, State.CURRENT)
        return True

    async def _repair(self, current: Generation) -> None:
        """Declare the topology of *current* again."""
        async with self._step(current) as connection:
            if connection is not None:
                number, partitions = current.number, current.partitions
                await self._transport.declare(self._queues.topology(number, partitions))
                await self._transport.declare(self._queues.routes(number))

    async def _unbind(self, shared: Shared) -> None:
        """
        Remove the bindings of older generations that are drained.

        Those of the work queue each time: a process without partitions may have bound it again.
        """
        current = shared.current
        for each in shared.generations:
            if each.number < current.number and is_open(shared, each.number + 1):
                await self._transport.remove(self._queues.routes(each.number))

    async def _finish(self, stop: asyncio.Event, say: Say) -> bool:
        """
        Wait until older generations are drained, and delete them; False if *stop* is set.

        Keeps those whose messages the broker may still dead-letter, if that cannot be seen.
        """
        waits_for, is_unbound = -1, False
        kept: list[int] = []
        while not stop.is_set():
            shared = await self._partitions.look()
            if left := shared.undrained:
                if left != waits_for:
                    say(f"{left} partitions have messages that were published before")
                    waits_for = left
            elif not is_unbound:
                await self._unbind(shared)
                is_unbound = True
                continue
            elif (older := shared.oldest(kept)) is None:
                return True
            elif older.state is State.DRAINING:
                await self._retire(older)
            elif not shared.is_read(older) and await self._removed(older, kept, say):
                continue
            await pause(stop, LOOK_EVERY)
        return False

    async def _retire(self, older: Generation) -> None:
        """Let no process read *older* any more, once its last messages are forwarded."""
        if any(depth.messages for depth in await self._depths(older)):
            return
        async with self._step(older) as connection:
            if connection is not None:
                await self._generations.move(connection, older.number, State.RETIRED)

    async def _removed(self, older: Generation, kept: list[int], say: Say) -> bool:
        """Whether *older* is deleted, or is one of those that are *kept* from now on."""
        if self._dead_lettering.is_unknown:
            if any(each.messages or each.consumers for each in await self._depths(older)):
                return False
            kept.append(older.number)
            say(
                f"the {older.partitions} partitions before are kept, as the broker may still"
                " dead-letter their messages: with MQ_MANAGEMENT_URL the command deletes them"
            )
            return True
        if is_deleted := await self._delete(older):
            say(f"the {older.partitions} partitions before are deleted")
        return is_deleted

    async def _delete(self, older: Generation) -> bool:
        """
        Delete the queues of *older*; returns whether it is done.

        If one has messages, they are forwarded first; those that the broker dead-letters first
        come to the dead queue.
        """
        topology = self._queues.topology(older.number, older.partitions)
        depths = await self._depths(older)
        if any(depth.consumers for depth in depths):
            return False
        has_messages = any(depth.messages for depth in depths)
        if not has_messages and not await self._dead_lettering.is_over(topology):
            return False
        async with self._step(older) as connection:
            if connection is None:
                return False
            if has_messages or await self._transport.remove(topology):
                # They are read again, so all of them have to exist.
                await self._transport.declare(Topology(queues=topology.queues))
                await self._generations.move(connection, older.number, State.DRAINING)
                return False
            await self._generations.delete(connection, older.number)
        return True

    async def _depths(self, older: Generation) -> list[QueueDepth]:
        names = [self._queues.queue(older.number, number) for number in range(older.partitions)]
        return [found for name in names if (found := await self._transport.depth(name))]

    @asynccontextmanager
    async def _step(self, *generations: Generation) -> AsyncIterator[AsyncConnection | None]:
        """
        A transaction that has *generations* locked, each in its state.

        Yields None if another process takes a step of one of them, or has taken it.
        """
        with driver_errors_translated():
            async with self._engine.connect() as connection:
                for each in generations:
                    if not await self._generations.lock(connection, each):
                        yield None
                        return
                yield connection
                await commit(connection)
