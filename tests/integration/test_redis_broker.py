"""
Relays and consumers with Redis as their broker, while processes and connections end.
"""

from collections import Counter, defaultdict

import pytest

from tests.integration.test_relay import commit
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.ordered import metadata as ordered_metadata
from tests.support.ordered import steps
from tests.support.proxy import Proxy

pytestmark = pytest.mark.usefixtures("redis_server")


async def test_each_event_takes_effect_once_with_retries_and_a_dead_letter(
    postgres_url, redis_url, tmp_path
):
    async with Deployment(postgres_url, redis_url, tmp_path) as deployment:
        await deployment.consumer()
        await deployment.relay()
        fine = [an_event(type="test.happened") for _ in range(50)]
        retried = [an_event(type="test.fails.once") for _ in range(10)]
        failing = an_event(type="test.fails.always")
        await commit(deployment, *fine, failing, *retried)

        await deployment.applies(60)

        async def is_dead() -> bool:
            return [row["message_id"] for row in await deployment.dead()] == [str(failing.id)]

        await eventually(is_dead, within=20)
        assert Counter(await deployment.applied()) == Counter(
            event.id for event in (*fine, *retried)
        )
        assert await deployment.is_drained()


async def test_a_killed_consumer_leaves_its_messages_to_the_next_one(
    postgres_url, redis_url, tmp_path
):
    async with Deployment(postgres_url, redis_url, tmp_path) as deployment:
        victim = await deployment.consumer()
        await deployment.relay()
        event = an_event(type="test.waits")
        await commit(deployment, event)
        await victim.wait_for_line("handler_waits")

        victim.kill()
        await deployment.consumer()

        await deployment.applies(1, within=30)
        assert await deployment.applied() == [event.id]


async def test_events_keep_the_order_of_their_key_through_lost_connections(
    postgres_url, redis_url, tmp_path
):
    async with (
        Proxy(redis_url) as proxy,
        Deployment(postgres_url, proxy.url, tmp_path) as deployment,
    ):
        async with deployment.engine.begin() as connection:
            await connection.run_sync(ordered_metadata.create_all)
        await deployment.ordered_consumer()
        await deployment.ordered_consumer()
        await deployment.relay()
        for step in range(60):
            payload = {"key": f"k{step % 3}", "step": step}
            event = an_event(type="test.step", payload=payload, ordering_key=payload["key"])
            await commit(deployment, event)
            if step % 20 == 10:
                await proxy.cut()
                await proxy.restore()

        async def all_there() -> bool:
            return len(await deployment.rows(steps)) >= 60

        await eventually(all_there, within=40)
        found: dict[str, list[int]] = defaultdict(list)
        for row in sorted(await deployment.rows(steps), key=lambda row: row["id"]):
            found[row["key"]].append(row["step"])
        assert found == {f"k{key}": list(range(key, 60, 3)) for key in range(3)}
