"""
A deployment of one consumer, and its broker: tests publish to it and read the outcomes.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from yarl import URL

from outbox.transports.base import Outcome, Transport
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.redis.transport import RedisTransport
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.wire.codec import WireMessage
from tests.support.builders import an_event, on_the_wire
from tests.support.deployment import Deployment
from tests.support.effects import effects
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

EXCHANGE = "health_data_exchange"
SOON = timedelta(seconds=10)


class ConsumerDeployment(Deployment):
    """A deployment of the consumer in the module *app*, and a broker that tests publish to."""

    def __init__(
        self,
        urls: tuple[str, str],
        directory: Path,
        *,
        app: str = "behaviours",
        **settings: str,
    ) -> None:
        self.app, self.queue = app, f"health_data_processing.{app}"
        self.calls_file, self.outage = directory / "calls", directory / "outage"
        super().__init__(
            *urls, directory, CALLS=str(self.calls_file), OUTAGE=str(self.outage), **settings
        )
        self.broker_url = URL(urls[1])
        self.broker = broker(urls[1])

    async def consumer(self, module: str | None = None) -> ChildProcess:
        return await super().consumer(module or self.app)

    async def publish(self, *messages: WireMessage) -> None:
        async with self.broker.publisher() as publisher:
            for message in messages:  # one by one: two copies have the same id
                outcomes = await publisher.publish([message], within=SOON)
                assert outcomes == [Outcome.ACKED]

    async def publish_all(self, messages: Sequence[WireMessage]) -> None:
        async with self.broker.publisher() as publisher:
            outcomes = await publisher.publish(messages, within=SOON)
        assert set(outcomes) == {Outcome.ACKED}

    async def has_nothing_waiting(self) -> None:
        async def empty() -> bool:
            depth = await self.broker.depth(self.queue)
            return depth is not None and depth.messages == 0

        await eventually(empty)

    async def wait_for_dead_letters(
        self, count: int, *, within: float = 20
    ) -> dict[str, sa.RowMapping]:
        """Wait for *count* dead letters, and return them by message id."""

        async def enough() -> list[sa.RowMapping] | None:
            rows = await self.dead()
            return rows if len(rows) >= count else None

        rows = await eventually(enough, within=within)
        assert len(rows) == count
        return {row["message_id"]: row for row in rows}

    def end_leases(self) -> None:
        """Let an embedded broker take its consumers for dead, instead of waiting for that."""
        if isinstance(self.broker, SqliteTransport):
            with closing(sqlite3.connect(self.broker_url.path)) as database, database:
                database.execute("UPDATE consumers SET lease_until = 0")

    async def attempts(self) -> Counter[tuple[str, int]]:
        """How often each message was applied in each attempt."""
        rows = await self.rows(effects)
        return Counter((str(row["event_id"]), row["attempt"]) for row in rows)

    def calls(self) -> list[list[str]]:
        """Id, idempotency key and attempt of each call of a leased handler."""
        if not self.calls_file.exists():
            return []
        return [line.split() for line in self.calls_file.read_text().splitlines()]


def broker(url: str) -> Transport:
    if url.startswith("sqlite"):
        return SqliteTransport(Path(url.removeprefix("sqlite:///")))
    if url.startswith("redis"):
        return RedisTransport([URL(url)], name="test")
    return RabbitMQTransport([URL(url)], heartbeat_seconds=5, name="test")


def a_message(event_type: str, **payload: Any) -> WireMessage:
    return on_the_wire(an_event(type=event_type, payload=payload), exchange=EXCHANGE)


def once(*messages: WireMessage, attempt: int = 1) -> Counter[tuple[str, int]]:
    return Counter((message.message_id or "", attempt) for message in messages)
