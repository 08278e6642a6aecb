"""
The relay process when the broker or its queues and exchanges change.
"""

import asyncio
import json
from collections import Counter, defaultdict

import aio_pika

from outbox.tables import outbox as table
from outbox.transports.topology import Binding, Exchange, Queue, Topology
from tests.integration.test_relay import (
    EXCHANGE,
    a_queue,
    a_transport,
    commit,
    messages_in,
    survives_the_loss_of_either,
)
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

SOON = {"MQ_PUBLISH_RETRY_FIRST_SECONDS": "0.1", "MQ_PUBLISH_RETRY_MAX_SECONDS": "0.2"}


async def attempts(deployment: Deployment) -> dict[str, tuple[int, str | None]]:
    """Attempts and last error of each remaining event, by type."""
    rows = await deployment.rows(table)
    return {row["type"]: (row["attempts"], row["last_error"]) for row in rows}


async def a_small_queue(url: str) -> None:
    """Declare a queue that takes one message and refuses the next."""
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    await a_transport(url).declare(
        Topology(
            [Exchange(EXCHANGE, "topic")],
            [Queue("small", arguments)],
            [Binding(EXCHANGE, "small", "small.#")],
        )
    )


async def test_an_event_that_a_full_queue_refuses_waits_until_the_queue_has_room(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    await a_small_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **SOON) as deployment:
        await deployment.relay()
        events = [an_event(type="small.n", ordering_key="k", payload=n) for n in range(20)]
        await commit(deployment, *events, *(an_event() for _ in range(20)))

        async def refused() -> bool:
            return any(error == "refused" for _, error in (await attempts(deployment)).values())

        await eventually(refused, within=20)
        # Only the first of the key was tried, and those without a key went through.
        rows = await deployment.rows(table)
        assert {row["ordering_key"] for row in rows} == {"k"}
        assert len([row for row in rows if row["attempts"]]) == 1
        received = []
        while len({m.message_id for m in received}) < len(events):
            received += await messages_in(rabbitmq_url, "small")
            await asyncio.wait_for(deployment.is_drained(), 5)
    order = list(dict.fromkeys(json.loads(message.body) for message in received))
    assert order == list(range(20))
    assert len(await messages_in(rabbitmq_url)) == 20


async def test_a_queue_beside_one_that_refuses_gets_few_copies(
    postgres_url, rabbitmq_url, tmp_path
):
    """The delays are a tenth of the usual ones: 6 s here are a minute there."""
    await a_queue(rabbitmq_url, "small.#")
    await a_small_queue(rabbitmq_url)
    settings = {"MQ_PUBLISH_RETRY_FIRST_SECONDS": "0.1", "MQ_PUBLISH_RETRY_MAX_SECONDS": "30"}
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        await deployment.relay()

        async def tried_three_times() -> int:
            rows = await deployment.rows(table)
            if not rows:
                await commit(deployment, an_event(type="small.n"))
            return sum(row["attempts"] for row in rows if row["attempts"] >= 3)

        tries = await eventually(tried_three_times, within=20)
        (row,) = await deployment.rows(table)

    copies = Counter(message.message_id for message in await messages_in(rabbitmq_url))
    assert 3 <= copies[str(row["event_id"])] <= tries + 1 <= 5


async def test_a_queue_and_an_exchange_may_be_deleted_and_declared_again_while_a_relay_runs(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **SOON) as deployment:
        await deployment.relay()
        await commit(deployment, an_event())
        await eventually(deployment.is_drained)

        for kind in ("queue", "exchange"):
            await delete(rabbitmq_url, kind)
            event = an_event()
            await commit(deployment, event)

            async def unroutable() -> bool:
                return {error for _, error in (await attempts(deployment)).values()} == {
                    "unroutable"
                }

            await eventually(unroutable)
            await a_queue(rabbitmq_url)
            await eventually(deployment.is_drained, within=20)

            assert str(event.id) in {m.message_id for m in await messages_in(rabbitmq_url)}
        assert await deployment.dead() == []


async def delete(url: str, kind: str) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        if kind == "queue":
            await channel.queue_delete("seen")
        else:
            await channel.exchange_delete(EXCHANGE)


async def test_the_next_node_of_the_list_is_used_when_one_is_gone(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with Proxy(rabbitmq_url) as one, Proxy(rabbitmq_url) as other:
        nodes = f"{one.url},{other.url}"
        async with Deployment(postgres_url, nodes, tmp_path) as deployment:
            await deployment.relay()
            await survives_the_loss_of_either(deployment, one, other)
    assert len({m.message_id for m in await messages_in(rabbitmq_url)}) == 2


async def test_several_relays_try_an_unroutable_event_no_more_often_than_one(
    postgres_url, rabbitmq_url, tmp_path
):
    """Each wait is at least half of the setting, for any relay that tries next."""
    settings = {
        "MQ_PUBLISH_RETRY_FIRST_SECONDS": "1",
        "MQ_PUBLISH_RETRY_MAX_SECONDS": "1",
    }
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        for _ in range(3):
            await deployment.relay()
        clock = asyncio.get_running_loop().time
        await commit(deployment, an_event())

        async def tried(times: int) -> bool:
            return (await attempts(deployment))["test.happened"][0] >= times

        await eventually(lambda: tried(1))
        first = clock()
        await eventually(lambda: tried(4))

        assert clock() - first >= 3 * 0.5 - 0.25


async def test_four_relays_keep_the_order_of_every_key_through_kills_and_retries(
    postgres_url, rabbitmq_url, tmp_path
):
    keys, each = 12, 40
    settings = {"MQ_BATCH_SIZE": "16", **SOON}
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        relays = [await deployment.relay() for _ in range(4)]
        for number in range(each):
            await commit(
                deployment,
                *(
                    an_event(payload=[key, number], ordering_key=f"key-{key}")
                    for key in range(keys)
                ),
            )
            if number == each // 4:
                # Until now nothing was routed; from here on all is, and some have waited.
                await a_queue(rabbitmq_url)
            if number in (each // 3, each // 2):
                relays.pop().kill()
                await deployment.relay()
        await eventually(deployment.is_drained, within=60)

    sequences: dict[int, list[int]] = defaultdict(list)
    for message in await messages_in(rabbitmq_url):
        key, number = json.loads(message.body)
        if number not in sequences[key]:  # a killed relay's batch is published again
            sequences[key].append(number)
    assert sequences == {key: list(range(each)) for key in range(keys)}
