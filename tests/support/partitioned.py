"""
An ordered consumer with partitions, whose effects show when each step of a key was taken.
"""

import asyncio
import os
from collections import defaultdict
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from consumer.storage.tables import consumer_partitions
from outbox import Event, insert
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

TARGET = "tests.support.partitioned:consumer"
KEYS = [f"key-{number}" for number in range(24)]

metadata = sa.MetaData()
taken = sa.Table(
    "taken",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("process", sa.Integer, nullable=False),
    sa.Column(
        "at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()
    ),
)

consumer = Consumer(
    "partitioned",
    bindings=["test.#"],
    ordered=True,
    partitions=int(os.environ.get("PARTITIONS", "4")),
)


@consumer.on("test.step")
async def take(message: Message[dict], session: AsyncSession) -> None:
    key, step = message.payload["key"], message.payload["step"]
    await session.execute(sa.insert(taken).values(key=key, step=step, process=os.getpid()))
    if message.attempt <= message.payload.get("fails", 0):
        raise RuntimeError("as the payload says")


def an_event(key: str | None, step: int, **payload: int) -> Event:
    return Event("test.step", {"key": key or "", "step": step, **payload}, ordering_key=key)


def in_turn(steps: range) -> list[Event]:
    """Events of these *steps* of each key."""
    return [an_event(key, step) for step in steps for key in KEYS]


class PartitionedDeployment(Deployment):
    """A relay and processes of the consumer, with what they have done."""

    async def record(self, *events: Event) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(insert(*events))

    async def member(self) -> ChildProcess:
        """Start another process of the consumer."""
        return await self.consumer("partitioned")

    async def scale(self, partitions: int) -> None:
        ended = await self.run("consumer", "scale", TARGET, str(partitions))
        assert ended.code == 0, ended
        assert f"has {partitions} partitions" in ended.out

    async def keep_recording(self, until: asyncio.Event, *, ahead: int = 5) -> int:
        """Record one step of each key after another; returns how many each key has."""
        step = 0
        while not until.is_set():
            await self.record(*in_turn(range(step, step + 1)))
            step += 1
            await self.until_taken((step - ahead) * len(KEYS))
        return step

    async def steps(self) -> dict[str, list[int]]:
        """The steps of each key, in the order in which they were taken."""
        found = defaultdict(list)
        for row in await self._in_order():
            found[row["key"]].append(row["step"])
        return found

    async def processes(self) -> set[int]:
        return {row["process"] for row in await self.rows(taken)}

    async def longest_pause(self) -> timedelta:
        """The longest time between two steps of a key."""
        last: dict[str, sa.RowMapping] = {}
        longest = timedelta(0)
        for row in await self._in_order():
            if row["key"] in last:
                longest = max(longest, row["at"] - last[row["key"]]["at"])
            last[row["key"]] = row
        return longest

    async def until_taken(self, count: int, *, within: float = 60) -> None:
        async def all_taken() -> bool:
            async with self.engine.connect() as connection:
                number = await connection.scalar(sa.select(sa.func.count()).select_from(taken))
            return number is not None and number >= count

        try:
            await eventually(all_taken, within=within)
        except AssertionError as late:
            late.add_note(self.logs())
            raise

    async def until_shared(self, *shares: int) -> None:
        """Wait until the processes handle so many partitions each of the newest generation."""

        async def as_wanted() -> bool:
            return await self._shares() == sorted(shares) and await self._is_open()

        await eventually(as_wanted, within=20)

    async def partitions(self) -> set[tuple[int, int]]:
        rows = await self.rows(consumer_partitions)
        return {(row["generation"], row["number"]) for row in rows}

    async def _shares(self) -> list[int]:
        rows = await self.rows(consumer_partitions)
        newest = max((row["generation"] for row in rows), default=0)
        read: dict[object, int] = defaultdict(int)
        for row in rows:
            if row["generation"] == newest and row["owner"] is not None:
                read[row["owner"]] += 1
        return sorted(read.values())

    async def _is_open(self) -> bool:
        rows = await self.rows(consumer_partitions)
        newest = max(row["generation"] for row in rows)
        return all(row["drained_at"] for row in rows if row["generation"] < newest)

    async def _in_order(self) -> list[sa.RowMapping]:
        return sorted(await self.rows(taken), key=lambda row: row["id"])
