"""
Processes that end again and again: by SIGKILL, by a clean stop, or by one of their messages.

Messages are given up only if they end their processes themselves.
"""

import pytest

from consumer.storage.tables import begun_deliveries
from outbox import Event, insert
from tests.support import intervals, ordered
from tests.support.consumer_deployment import ConsumerDeployment, a_message, once
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

pytestmark = pytest.mark.fault

LIMIT = 3
KEYS, STEPS = [f"key-{number}" for number in range(3)], 6
CONCURRENCY, PREFETCH = 4, 20
GIVES_UP_SOON = {"MQ_DELIVERY_LIMIT": str(LIMIT), intervals.VARIABLE: "suspects"}


async def test_an_ordered_consumer_that_is_killed_again_and_again_gives_no_message_up(
    postgres_url, rabbitmq_url, tmp_path
):
    """Twice as often as the limit; each time with the first message of each key in its hands."""
    gate = tmp_path / "gate"
    events = [
        Event("test.step", {"key": key, "step": step, "gate": str(gate)}, ordering_key=key)
        for step in range(STEPS)
        for key in KEYS
    ]
    async with Deployment(
        postgres_url, rabbitmq_url, tmp_path, MQ_DELIVERY_LIMIT=str(LIMIT)
    ) as deployment:
        async with deployment.engine.begin() as connection:
            await ordered.create(connection)
        assert await (await deployment.ordered_consumer()).terminate() == 0
        await deployment.relay()
        async with deployment.engine.begin() as connection:
            await connection.execute(insert(*events))
        await eventually(deployment.is_drained)

        async def is_held_or_begun() -> bool:
            strikes = [row["strikes"] for row in await deployment.rows(begun_deliveries)]
            return ordered.reached(gate).exists() or strikes == [2] * len(KEYS)

        for _ in range(2 * LIMIT):
            doomed = await deployment.ordered_consumer()
            await eventually(is_held_or_begun)
            ordered.reached(gate).unlink(missing_ok=True)
            doomed.kill()
        gate.touch()
        await deployment.ordered_consumer()

        async def all_done() -> bool:
            return len(await deployment.rows(ordered.steps)) == len(events)

        await eventually(all_done, within=60)
        rows = sorted(await deployment.rows(ordered.steps), key=lambda row: row["id"])
        for key in KEYS:
            assert [row["step"] for row in rows if row["key"] == key] == list(range(STEPS))
        assert await deployment.dead() == []
        await eventually(lambda: none_begun(deployment))


async def none_begun(deployment: Deployment) -> bool:
    return await deployment.rows(begun_deliveries) == []


async def test_clean_stops_charge_a_delivery_each_and_the_next_process_works_in_full_width(
    postgres_url, rabbitmq_url, tmp_path
):
    stops = 4
    messages = [a_message("test.slow") for _ in range(PREFETCH)]
    async with ConsumerDeployment(
        (postgres_url, rabbitmq_url),
        tmp_path,
        app="slow",
        MQ_CONCURRENCY=str(CONCURRENCY),
        MQ_PREFETCH=str(PREFETCH),
        MQ_DELIVERY_LIMIT=str(LIMIT),
        MQ_DRAIN_SECONDS="0.2",
    ) as deployment:
        # It declares the queue; on a busy machine the deadline passes.
        assert await (await deployment.consumer()).terminate() in {0, 4}
        deployment.outage.touch()
        await deployment.publish_all(messages)
        for number in range(1, stops + 1):
            consumer = await deployment.consumer()
            await eventually(
                lambda at_least=number: len(deployment.calls()) >= at_least * CONCURRENCY
            )
            assert await consumer.terminate() == 4
        async with deployment.broker.subscribe(
            deployment.queue, prefetch=PREFETCH
        ) as subscription:
            deliveries = await subscription.take(PREFETCH)
            while len(deliveries) < PREFETCH:
                deliveries += await subscription.take(PREFETCH)
            # RabbitMQ 4.3 does not count a delivery that is handed back.
            counts = [each.message.headers.get("x-delivery-count", 0) for each in deliveries]
            assert max(counts) <= stops + 1
        assert sum(row["strikes"] for row in await deployment.rows(begun_deliveries)) == 0

        deployment.outage.unlink()
        await deployment.consumer()
        await deployment.applies(len(messages))

        assert await deployment.attempts() == once(*messages)
        assert await deployment.dead() == []


async def test_a_message_that_ends_each_process_is_given_up_and_its_neighbours_flow(
    urls, tmp_path
):
    """Also in a batch, of which each message is a suspect for a while."""
    neighbours = [a_message("test.happened") for _ in range(40)]
    batched = [a_message("test.in.batches") for _ in range(9)]
    killer = a_message("test.kills")
    async with ConsumerDeployment(urls, tmp_path, **GIVES_UP_SOON) as deployment:
        assert await (await deployment.consumer()).terminate() == 0
        await deployment.publish_all([neighbours[0], *batched, killer, *neighbours[1:]])

        for _ in range(LIMIT + 1):
            assert await (await deployment.consumer()).wait(within=30) == 9
            deployment.end_leases()
        last = await deployment.consumer()
        dead = await deployment.wait_for_dead_letters(1)
        await deployment.applies(len(neighbours) + len(batched), within=120)

        assert dead[killer.message_id]["reason"] == "delivery_limit"
        assert await deployment.attempts() == once(*neighbours, *batched)
        assert await last.terminate() == 0


async def test_messages_of_keys_that_end_each_process_are_given_up_and_their_neighbours_flow(
    postgres_url, rabbitmq_url, tmp_path
):
    """One ends it when it is delivered, and one when it is parked, after it has failed."""
    poison = {"parked": {"fails": 1, "kills_from": 2}, "delivered": {"kills_from": 1}}
    events = [
        Event(
            "test.step",
            {"key": key, "step": step, **(poison.get(key, {}) if step == 0 else {})},
            ordering_key=key,
        )
        for step in range(STEPS)
        for key in [KEYS[0], *poison, *KEYS[1:]]
    ]
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **GIVES_UP_SOON) as deployment:
        async with deployment.engine.begin() as connection:
            await ordered.create(connection)
        assert await (await deployment.ordered_consumer()).terminate() == 0
        await deployment.relay()
        async with deployment.engine.begin() as connection:
            await connection.execute(insert(*events))
        await eventually(deployment.is_drained)

        expected = len(events) - len(poison)
        consumer = await deployment.ordered_consumer()
        for _ in range(4 * (LIMIT + 1)):  # the last one gives up what the others ended at

            async def has_ended_or_done(process=consumer) -> bool:
                is_done = len(await deployment.rows(ordered.steps)) == expected
                return not process.running or (is_done and await none_begun(deployment))

            await eventually(has_ended_or_done, within=120)
            if consumer.running:
                break
            consumer = await deployment.ordered_consumer()

        # Of each message: a process that ends before the ack of a letter leads to a second one.
        dead = {row["message_id"]: row["reason"] for row in await deployment.dead()}
        assert list(dead.values()) == ["delivery_limit"] * len(poison)
        rows = sorted(await deployment.rows(ordered.steps), key=lambda row: row["id"])
        for key in [*KEYS, *poison]:
            steps = [row["step"] for row in rows if row["key"] == key]
            assert steps == list(range(key in poison, STEPS))
        await eventually(lambda: none_begun(deployment))
        assert await consumer.terminate() == 0


async def test_a_consumer_that_loses_its_connection_goes_on_beside_a_slow_handler(
    postgres_url, rabbitmq_url, tmp_path
):
    """The slow message is delivered again, and waits for its handler, which is called once."""
    slow, others = a_message("test.slow"), [a_message("test.happened") for _ in range(5)]
    async with (
        Proxy(rabbitmq_url) as proxy,
        ConsumerDeployment(
            (postgres_url, rabbitmq_url), tmp_path, app="slow", MQ_BROKER_URL=proxy.url
        ) as deployment,
    ):
        deployment.outage.touch()
        consumer = await deployment.consumer()
        await deployment.publish(slow)
        await eventually(deployment.calls)

        proxy.reset()
        await consumer.wait_for_line("server_unavailable")
        await deployment.publish(*others)
        await deployment.applies(len(others))
        assert len(deployment.calls()) == 1
        deployment.outage.unlink()
        await deployment.applies(len(others) + 1)

        await deployment.has_nothing_waiting()
        assert len(deployment.calls()) == 1
        assert await deployment.attempts() == once(slow, *others)
        assert await consumer.terminate() == 0
