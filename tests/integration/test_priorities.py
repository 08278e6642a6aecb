"""
Twenty urgent messages that wait in a queue behind many others.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from outbox import Priority
from outbox.checks import versions
from outbox.transports.base import Outcome
from outbox.wire.codec import WireMessage
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER
from tests.support.builders import an_event, on_the_wire
from tests.support.consumer_deployment import broker
from tests.support.eventually import eventually
from tests.support.running_consumer import running

EXCHANGE = "health_data_exchange"
URGENT = 20
PREFETCH = 10
SOON = timedelta(seconds=60)


class Handled:
    """The types of messages in the order in which a consumer handles them."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.consumer = Consumer("etl", bindings=["#"])
        for event_type in ("many", "urgent"):
            self.consumer.on(event_type)(self._handle)

    async def _handle(self, message: Message, _session: AsyncSession) -> None:
        self.types.append(message.type)

    def place_of_last_urgent(self) -> int | None:
        """How many messages were handled until all urgent ones were; None before."""
        if self.types.count("urgent") < URGENT:
            return None
        return len(self.types) - self.types[::-1].index("urgent")


def messages(event_type: str, count: int, priority: Priority) -> list[WireMessage]:
    """*count* messages of an event each, but for what a consumer does not look at."""
    first = on_the_wire(an_event(type=event_type, priority=priority), exchange=EXCHANGE)
    ids = (str(uuid4()) for _ in range(count))
    return [
        replace(first, message_id=id_, headers={**first.headers, IDEMPOTENCY_KEY_HEADER: id_})
        for id_ in ids
    ]


async def publish(url: str, *messages: WireMessage) -> None:
    async with broker(url).publisher() as publisher:
        for batch in batched(messages, 20_000 if url.startswith("sqlite") else 500):
            outcomes = await publisher.publish(batch, within=SOON)
            assert set(outcomes) == {Outcome.ACKED}


def batched(messages: Sequence[WireMessage], size: int) -> Iterator[Sequence[WireMessage]]:
    for start in range(0, len(messages), size):
        yield messages[start : start + size]


@asynccontextmanager
async def at_work(handled: Handled, sqlite_url: str, url: str) -> AsyncIterator[None]:
    async with running(handled.consumer, sqlite_url, url, prefetch=PREFETCH, concurrency=1):
        yield


async def place(handled: Handled, sqlite_url: str, url: str, *, behind: int) -> int:
    """
    Let twenty urgent messages wait behind others, and a consumer handle them all.

    Returns how many it has handled when the last urgent one is.
    """
    async with at_work(handled, sqlite_url, url):
        pass  # declares the queue
    await publish(url, *messages("many", behind, Priority.NORMAL))
    await publish(url, *messages("urgent", URGENT, Priority.HIGH))
    async with at_work(handled, sqlite_url, url):
        found: int | None = await eventually(handled.place_of_last_urgent, within=60)
    assert found is not None
    return found


async def test_the_embedded_broker_delivers_twenty_urgent_ones_of_a_hundred_thousand_first(
    sqlite_url, embedded_broker_url
):
    assert await place(Handled(), sqlite_url, embedded_broker_url, behind=100_000) == URGENT


async def test_a_quorum_queue_delivers_urgent_ones_first_from_rabbitmq_4_on(
    sqlite_url, rabbitmq_url
):
    facts = await broker(rabbitmq_url).inspect([])
    has_priorities = versions.parsed(facts.version) >= versions.PRIORITIES_SINCE
    many = 5_000 if has_priorities else 500

    found = await place(Handled(), sqlite_url, rabbitmq_url, behind=many)

    if has_priorities:
        assert found <= many / 100
    else:
        # Of the messages that it holds, the consumer handles urgent ones first.
        assert found > many + URGENT - PREFETCH
