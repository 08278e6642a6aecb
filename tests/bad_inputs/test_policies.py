"""
Policies of an operator on the queues of a consumer: none loses a message without a word.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest

import outbox
from outbox.tables import outbox as outbox_table
from tests.support.builders import an_event
from tests.support.consumer_deployment import ConsumerDeployment, a_message
from tests.support.eventually import eventually

EVERY_QUEUE, DEAD_QUEUES = ".*", r".*\.dead$"
LIMITED = [{"max-length": 5}, {"max-length": 5, "overflow": "reject-publish"}]
DELAYING: list[dict[str, Any]] = [
    *LIMITED,
    {"max-length-bytes": 500},
    {"message-ttl": 300},
    {"delivery-limit": 1},
    {"dead-letter-exchange": "elsewhere", "dead-letter-routing-key": "elsewhere"},
    {"dead-letter-strategy": "at-most-once"},
    {"queue-mode": "lazy", "max-in-memory-length": 1},
    {"message-ttl": 300, "max-length": 3, "delivery-limit": 1},
]


class Operator:
    """Sets policies in the virtual host of the test."""

    def __init__(self, server: Any, vhost: str) -> None:
        self._http, self._vhost = server.http, vhost

    @asynccontextmanager
    async def policy(self, pattern: str, definition: dict[str, Any]) -> AsyncIterator[None]:
        body = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
        await self._http.request("PUT", "policies", self._vhost, "careless", body=body)
        try:
            yield
        finally:
            await self._http.request("DELETE", "policies", self._vhost, "careless")

    async def policy_applies(self, queue: str) -> None:
        async def applies() -> bool:
            answer = await self._http.request("GET", "queues", self._vhost, queue)
            return answer.get("policy") == "careless"

        await eventually(applies)

    async def waiting(self) -> int:
        """The number of messages in all queues."""
        answer = await self._http.request("GET", "queues", self._vhost)
        return sum(queue.get("messages", 0) for queue in answer)

    async def held(self, queue: str) -> int:
        """The number of messages that *queue* holds until another queue takes them."""
        answer = await self._http.request("GET", "queues", self._vhost, queue)
        return int(answer.get("messages_dlx", 0))


@pytest.fixture
def operator(rabbitmq_server, rabbitmq_vhost):
    return Operator(rabbitmq_server, rabbitmq_vhost)


@pytest.fixture
async def deployment(postgres_url, rabbitmq_url, rabbitmq_server, tmp_path):
    async with ConsumerDeployment(
        (postgres_url, rabbitmq_url),
        tmp_path,
        app="effects",
        MQ_MANAGEMENT_URL=rabbitmq_server.management_url,
        MQ_MAX_RETRIES="1",
        MQ_PUBLISH_RETRY_MAX_SECONDS="1",
    ) as deployment:
        yield deployment


async def reject_all(url: str, queue: str, count: int) -> None:
    """Reject *count* messages of *queue*, as a program does that is not ours."""
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        for _ in range(count):
            got = await channel.basic_get(queue)
            await channel.basic_reject(got.delivery_tag, requeue=False)


@pytest.mark.parametrize("definition", LIMITED)
async def test_no_dead_letter_is_lost_to_a_length_limit_on_the_dead_queue(
    deployment, operator, rabbitmq_url, definition
):
    """The work queue keeps the messages that the dead queue refuses, until it takes them."""
    assert await (await deployment.consumer()).terminate() == 0
    async with operator.policy(DEAD_QUEUES, definition):
        await operator.policy_applies(f"{deployment.queue}.dead")
        await deployment.publish_all([a_message("test.happened") for _ in range(25)])
        await reject_all(rabbitmq_url, deployment.queue, 25)

        await deployment.consumer()
        dead = await deployment.wait_for_dead_letters(25, within=40)

    assert {row["reason"] for row in dead.values()} == {"rejected"}


async def test_the_dead_queue_holds_the_messages_that_expire_in_it(
    deployment, operator, rabbitmq_url
):
    """They get into the queue `release` once it is declared."""
    assert await (await deployment.consumer()).terminate() == 0
    dead = f"{deployment.queue}.dead"
    async with operator.policy(DEAD_QUEUES, {"message-ttl": 100}):
        await operator.policy_applies(dead)
        await deployment.publish_all([a_message("test.happened") for _ in range(5)])
        await reject_all(rabbitmq_url, deployment.queue, 5)

        await eventually(lambda: are_held(operator, dead, 5))
    async with await aio_pika.connect(rabbitmq_url) as connection:
        channel = await connection.channel()
        released = await channel.declare_queue(
            f"{dead}.release", durable=True, arguments={"x-queue-type": "quorum"}
        )
        for _ in range(5):
            await eventually(lambda: is_taken(released))


async def are_held(operator: Operator, queue: str, count: int) -> bool:
    return await operator.held(queue) == count


async def is_taken(queue: aio_pika.abc.AbstractQueue) -> bool:
    got = await queue.get(fail=False)
    if got is not None:
        await got.ack()
    return got is not None


async def test_events_are_applied_dead_lettered_or_in_a_queue_under_policies_that_only_delay(
    deployment, operator
):
    """
    A queue that was full may hold messages for ever, which the consumer reports.

    RabbitMQ tells a publisher that was refused when there is room again, but not if that is
    because the limit is gone; and it publishes dead-lettered messages itself.
    """
    events = [
        an_event(type=kind)
        for kind in ("test.happened", "test.fails.once", "test.fails.always", "test.happened")
        for _ in range(60)
    ]
    chance = random.Random(11)
    chance.shuffle(events)
    consumer = await deployment.consumer()
    await deployment.relay()
    everyone = {str(event.id) for event in events}

    async def accounted() -> set[str]:
        applied = {str(each) for each in await deployment.applied()}
        return applied | {row["message_id"] for row in await deployment.dead()}

    def is_reported() -> bool:
        return '"held"' in consumer.output

    async def moves_or_is_refused(since: int) -> bool:
        rows = await deployment.rows(outbox_table)
        moves = len(await accounted()) > since
        # Messages that a full retry queue refuses may fill the prefetch until the broker tries
        # again to empty it.
        return moves or is_reported() or any(row["last_error"] for row in rows)

    for position, definition in enumerate(chance.sample(DELAYING, len(DELAYING))):
        part = events[position :: len(DELAYING)]
        before = len(await accounted())
        async with operator.policy(EVERY_QUEUE, definition):
            async with deployment.engine.begin() as connection:
                await connection.execute(outbox.insert(*part))
            await eventually(
                lambda before=before: moves_or_is_refused(before),
                within=40,
                message=str(definition),
            )

    async def are_somewhere() -> bool:
        missing = len(everyone - await accounted())
        return await deployment.is_drained() and missing <= await operator.waiting()

    await eventually(are_somewhere, within=80)
    missing = everyone - await accounted()
    if missing:  # the broker's own publishers may still be refused

        async def is_solved_or_reported() -> bool:
            return everyone == await accounted() or is_reported()

        await eventually(is_solved_or_reported, within=60)


async def test_a_consumer_refuses_to_start_under_a_policy_that_can_lose_messages(
    deployment, operator
):
    assert await (await deployment.consumer()).terminate() == 0
    async with operator.policy(EVERY_QUEUE, {"max-length": 5, "overflow": "drop-head"}):
        refused = await deployment.run("consumer", "run", "tests.support.effects:consumer")
        checked = await deployment.run("consumer", "check", "tests.support.effects:consumer")

    assert (refused.code, checked.code) == (2, 2)
    for output in (refused.err, checked.err):
        assert "policy careless sets overflow" in output
        assert f"queue {deployment.queue}.dead" in output
        assert f"queue {deployment.queue}.retry.200ms" in output
    assert "good" not in checked.out


async def test_without_a_management_url_a_check_says_that_it_looks_at_no_policy(deployment):
    assert await (await deployment.consumer()).terminate() == 0
    deployment.unset("MQ_MANAGEMENT_URL")

    checked = await deployment.run("consumer", "check", "tests.support.effects:consumer")

    assert checked.code == 0
    assert "not checked: policies, bindings and delivery limits, because" in checked.out
