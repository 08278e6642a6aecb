"""
Partitions of one consumer, and the processes that share them: every statement on
`consumer_partitions` and `consumer_members`.

A process owns a partition while it updates its own row in `consumer_members`. Ownership only
decides which process subscribes to a queue. It protects no message: the broker delivers the
messages of a queue to one subscription at a time, and the dedup store drops copies. So a process
that loses its partitions by a delay harms nothing.

All times are those of the database's clock. Methods commit, and raise DatabaseUnavailable.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumer.storage.generations import Generation, Generations, State
from consumer.storage.tables import (
    ago,
    consumer_generations,
    consumer_members,
    consumer_partitions,
)
from outbox.database.errors import driver_errors_translated
from outbox.database_time import database_now
from outbox.runtime.shield import commit

MEMBER_FOR = timedelta(seconds=4)
"""The age of its row at which a process counts as ended."""

FORGOTTEN_AFTER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition; *owner* is the process that reads it, if there is one."""

    generation: int
    number: int
    owner: UUID | None
    is_drained: bool


@dataclass(frozen=True, slots=True)
class Shared:
    """
    What all processes of a consumer see: *members* are those that run, sorted.

    Without *generations* it has no `current` one.
    """

    generations: Sequence[Generation]
    partitions: Sequence[Partition]
    members: Sequence[UUID]

    @property
    def current(self) -> Generation:
        """The generation that gets all messages."""
        return next(each for each in reversed(self.generations) if each.state is State.CURRENT)

    @property
    def declared(self) -> Generation | None:
        """The generation that follows the current one."""
        return next((each for each in self.generations if each.state is State.DECLARED), None)

    def oldest(self, kept: Collection[int]) -> Generation | None:
        """The oldest generation to delete, except those that are *kept*; the work queue stays."""
        last = self.current.number
        older = (each for each in self.generations if 0 < each.number < last)
        return next((each for each in older if each.number not in kept), None)

    @property
    def undrained(self) -> int:
        """The number of older partitions that have not come to their markers."""
        last = self.current.number
        return sum(not each.is_drained for each in self.partitions if each.generation < last)

    @property
    def awaits_first_process(self) -> bool:
        """Whether the work queue is not drained, and no process runs that could drain it."""
        undrained = (each.generation for each in self.partitions if not each.is_drained)
        return not self.members and self.current.number > 0 and 0 in undrained

    def is_read(self, generation: Generation) -> bool:
        """Whether a process that runs reads a partition of *generation*."""
        return any(
            each.generation == generation.number and each.owner in self.members
            for each in self.partitions
        )


@dataclass(frozen=True, slots=True)
class Moves:
    """Partitions to claim and to release, each as a pair of generation and number."""

    claims: Collection[tuple[int, int]] = ()
    releases: Collection[tuple[int, int]] = ()


class Partitions:
    """The partitions of *consumer* in the database of *engine*."""

    def __init__(self, consumer: str, engine: AsyncEngine) -> None:
        self._consumer = consumer
        self._engine = engine
        self._generations = Generations(consumer)

    async def shared(self, connection: AsyncConnection) -> Shared:
        """What all processes see."""
        partition, member = consumer_partitions.c, consumer_members.c
        rows = await connection.execute(
            sa.select(
                partition.generation, partition.number, partition.owner, partition.drained_at
            )
            .where(partition.consumer == self._consumer)
            .order_by(partition.generation, partition.number)
        )
        found = [
            Partition(row.generation, row.number, row.owner, row.drained_at is not None)
            for row in rows
        ]
        members = await connection.scalars(
            sa.select(member.id).where(
                member.consumer == self._consumer, member.seen_at >= ago(MEMBER_FOR)
            )
        )
        generations = await self._generations.all(connection)
        return Shared(generations, found, sorted(members))

    async def look(self) -> Shared:
        """What all processes see; changes nothing."""
        with driver_errors_translated():
            async with self._engine.connect() as connection:
                return await self.shared(connection)

    async def share(self, member: UUID, moves_of: Callable[[Shared], Moves]) -> Shared:
        """
        Report that *member* runs, and make the moves that *moves_of* chooses.

        Returns what all processes see after that. A partition that another process has claimed in
        between stays with it.
        """
        async with self._transaction() as connection:
            await self._seen(connection, member)
            shared = await self.shared(connection)
            moves = moves_of(shared)
            if moves.claims or moves.releases:
                await self._move(connection, member, moves, shared.members)
                shared = await self.shared(connection)
        return shared

    async def leave(self, member: UUID) -> None:
        """Release the partitions of *member*, and forget it and processes that were killed."""
        owned, column = consumer_partitions.c, consumer_members.c
        async with self._transaction() as connection:
            await connection.execute(
                sa.update(consumer_partitions)
                .where(owned.consumer == self._consumer, owned.owner == member)
                .values(owner=None)
            )
            gone = (column.id == member) | (column.seen_at < ago(FORGOTTEN_AFTER))
            await connection.execute(
                sa.delete(consumer_members).where(column.consumer == self._consumer, gone)
            )

    async def is_drained(self, generation: int, number: int) -> bool:
        """Whether the drain marker of a partition has come, or it is deleted."""
        shared = await self.look()
        found = (each for each in shared.partitions if each.generation == generation)
        return next((each.is_drained for each in found if each.number == number), True)

    async def drained(self, generation: int, number: int) -> bool:
        """
        Record that all messages before the drain marker of a partition are settled.

        Returns whether its generation is draining; if not, the marker means nothing.
        """
        column, of = consumer_partitions.c, consumer_generations.c
        is_draining = sa.exists().where(
            of.consumer == self._consumer,
            of.generation == generation,
            of.state.in_((State.DRAINING.value, State.RETIRED.value)),
        )
        async with self._transaction() as connection:
            result = await connection.execute(
                sa.update(consumer_partitions)
                .where(
                    column.consumer == self._consumer,
                    column.generation == generation,
                    column.number == number,
                    is_draining,
                )
                .values(drained_at=sa.func.coalesce(column.drained_at, database_now()))
            )
        return result.rowcount == 1

    async def _seen(self, connection: AsyncConnection, member: UUID) -> None:
        column = consumer_members.c
        is_own = (column.consumer == self._consumer) & (column.id == member)
        seen = sa.update(consumer_members).where(is_own).values(seen_at=database_now())
        if (await connection.execute(seen)).rowcount == 0:
            row = {"consumer": self._consumer, "id": member}
            await connection.execute(sa.insert(consumer_members).values(row))

    async def _move(
        self, connection: AsyncConnection, member: UUID, moves: Moves, live: Collection[UUID]
    ) -> None:
        column = consumer_partitions.c
        free = column.owner.is_(None) | column.owner.not_in(list(live))
        # In one order, so that two processes that claim the same partitions never deadlock.
        changes: list[tuple[tuple[int, int], sa.ColumnElement[bool], UUID | None]] = [
            *((key, column.owner == member, None) for key in moves.releases),
            *((key, free, member) for key in moves.claims),
        ]
        for (generation, number), condition, owner in sorted(changes, key=lambda each: each[0]):
            await connection.execute(
                sa.update(consumer_partitions)
                .where(
                    column.consumer == self._consumer,
                    column.generation == generation,
                    column.number == number,
                    condition,
                )
                .values(owner=owner)
            )

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with driver_errors_translated():
            async with self._engine.connect() as connection:
                yield connection
                await commit(connection)
