"""
Consumers that reach both servers through proxies with breakpoints.
"""

from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Self

import aio_pika
from yarl import URL

from consumer.assembly import declared
from consumer.settings import ConsumerSettings
from consumer.storage.tables import processed_messages
from outbox.transports.base import Outcome
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.wire.codec import WireMessage
from tests.support import crashing
from tests.support.breakpoints import Breakpoint, BreakpointProxy
from tests.support.builders import an_event, on_the_wire
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess
from tests.support.wire_protocols import statement

QUEUE = "health_data_processing.crashing"
RETRY_SECONDS = 0.2
RETRY_QUEUE = f"{QUEUE}.retry.200ms"
RECORD = statement("INSERT INTO processed_messages")
APPLIED = statement("INSERT INTO effects")


def a_message(event_type: str = "test.happened") -> WireMessage:
    return on_the_wire(an_event(type=event_type), exchange="health_data_exchange")


class ProxiedConsumer:
    """
    Processes of the consumer `crashing` behind the proxies `database` and `broker`.

    An async context manager. Its `deployment` reads the database without the proxies.
    """

    def __init__(
        self, postgres_url: str, rabbitmq_url: str, directory: Path, **settings: str
    ) -> None:
        self.database = BreakpointProxy(postgres_url)
        self.broker = BreakpointProxy(rabbitmq_url)
        self.deployment: Deployment
        self._addresses = (postgres_url, directory)
        self._settings = settings
        self._rabbitmq_url = rabbitmq_url
        self._transport = RabbitMQTransport([URL(rabbitmq_url)], heartbeat_seconds=5, name="test")
        self._processes: list[ChildProcess] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.database)
        await self._stack.enter_async_context(self.broker)
        postgres_url, directory = self._addresses
        self.deployment = Deployment(
            postgres_url,
            self.broker.url,
            directory,
            MQ_DATABASE_URL=self.database.url,
            MQ_LOG_LEVEL="debug",
            MQ_RETRY_DELAYS=f"[{RETRY_SECONDS}]",
            **self._settings,
        )
        await self._stack.enter_async_context(self.deployment)
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self._stack.aclose()

    async def consumer(self) -> ChildProcess:
        process = await self.deployment.consumer("crashing")
        self._processes.append(process)
        return process

    async def hit(
        self, breakpoint_: Breakpoint, event_type: str = "test.happened"
    ) -> tuple[ChildProcess, WireMessage]:
        """Start a consumer and publish a message; returns once *breakpoint_* is hit."""
        process, message = await self.consumer(), a_message(event_type)
        await self.publish(message)
        await breakpoint_.wait_until_hit()
        return process, message

    async def publish(self, *messages: WireMessage) -> None:
        async with self._transport.publisher() as publisher:
            outcomes = await publisher.publish(messages, within=timedelta(seconds=10))
        assert set(outcomes) == {Outcome.ACKED}

    async def declare(self) -> None:
        """Declare the topology of the consumer, as it does when it starts."""
        settings = ConsumerSettings(retry_delays=(RETRY_SECONDS,))
        await self._transport.declare(declared(crashing.consumer, settings))

    async def delete(self, queue: str) -> None:
        async with await aio_pika.connect(self._rabbitmq_url) as connection:
            await (await connection.channel()).queue_delete(queue)

    async def waits_for_dead_letters(self, count: int) -> None:
        """Wait until `dead_letters` has at least *count* rows."""

        async def enough() -> bool:
            return len(await self.deployment.dead()) >= count

        await eventually(enough, within=20, message=f"fewer than {count} dead letters")

    async def ends(self) -> None:
        """Stop all consumers; their unsettled messages are in the queues again."""
        for process in self._processes:
            if process.running:
                assert await process.terminate() == 0

    async def records(self) -> list[tuple[str, int]]:
        """Status and attempts of each message in the dedup store."""
        rows = await self.deployment.rows(processed_messages)
        return [(row["status"], row["attempts"]) for row in rows]

    async def left(self) -> dict[str, int]:
        """How many messages each non-empty queue has; no message may be unacked."""
        queues = (QUEUE, RETRY_QUEUE, f"{QUEUE}.dead")
        depths = {queue: await self._transport.depth(queue) for queue in queues}
        return {name: depth.messages for name, depth in depths.items() if depth and depth.messages}
