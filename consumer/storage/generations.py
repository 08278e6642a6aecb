"""
Generations of the partitions of one consumer: every statement on `consumer_generations`.

    declared ──▶ current ──▶ draining ──▶ retired ──▶ no row
    bound: no    yes         no           no

Each step of `consumer.partitions.scaling` is one transaction that holds the rows of its
generations locked from its first look at their states to the new ones. So two commands never take
the same step at once, and one that was delayed finds a state that is not its own.

No function of this module commits.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from consumer.storage.tables import consumer_generations, consumer_partitions
from outbox.database_time import database_now


class State(StrEnum):
    """The state of a generation."""

    DECLARED = "declared"
    """It is planned; its queues may get messages already, and no process reads them."""
    CURRENT = "current"
    """It gets all messages."""
    DRAINING = "draining"
    """It gets no more messages; its partitions are read up to their drain markers."""
    RETIRED = "retired"
    """All its partitions are drained, and its queues are being deleted."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation, by *number*; 0 is the work queue, with one partition."""

    number: int
    partitions: int
    state: State


class Generations:
    """The generations of one *consumer*."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def all(self, connection: AsyncConnection) -> list[Generation]:
        """All generations, the oldest first."""
        column = consumer_generations.c
        rows = await connection.execute(
            sa.select(column.generation, column.partitions, column.state)
            .where(column.consumer == self._consumer)
            .order_by(column.generation)
        )
        return [Generation(row.generation, row.partitions, State(row.state)) for row in rows]

    async def add(self, connection: AsyncConnection, generation: Generation) -> None:
        """Add *generation* and its partitions; those that exist stay as they are."""
        head = {
            "consumer": self._consumer,
            "generation": generation.number,
            "partitions": generation.partitions,
            "state": generation.state.value,
        }
        added = await connection.execute(_insert(connection, consumer_generations).values(head))
        if added.rowcount != 1:
            return
        rows = [
            {"consumer": self._consumer, "generation": generation.number, "number": number}
            for number in range(generation.partitions)
        ]
        await connection.execute(_insert(connection, consumer_partitions), rows)

    async def lock(self, connection: AsyncConnection, generation: Generation) -> bool:
        """
        Lock the row of *generation*.

        Returns False if another transaction has it locked, or has changed its state.
        """
        found = await connection.execute(
            sa.select(consumer_generations.c.generation)
            .where(
                self._is_row(generation.number),
                consumer_generations.c.state == generation.state.value,
            )
            .with_for_update(skip_locked=True)
        )
        return found.first() is not None

    async def move(self, connection: AsyncConnection, number: int, to: State) -> None:
        """Give the generation *number* the state *to*."""
        await connection.execute(
            sa.update(consumer_generations)
            .where(self._is_row(number))
            .values(state=to.value, changed_at=database_now())
        )

    async def delete(self, connection: AsyncConnection, number: int) -> None:
        """Delete the generation *number* and its partitions."""
        partition = consumer_partitions.c
        await connection.execute(
            sa.delete(consumer_partitions).where(
                partition.consumer == self._consumer, partition.generation == number
            )
        )
        await connection.execute(sa.delete(consumer_generations).where(self._is_row(number)))

    def _is_row(self, number: int) -> sa.ColumnElement[bool]:
        column = consumer_generations.c
        return (column.consumer == self._consumer) & (column.generation == number)


def _insert(connection: AsyncConnection, table: sa.Table) -> Any:
    """An INSERT that leaves rows as they are that exist already."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()
