"""
Processes that are killed, and a change of partitions that ends at each of its steps.

The steps are those of `consumer.partitions`: what a crash leaves behind each of them is finished
by the next call, and no key is out of order.
"""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest
from yarl import URL

from consumer.partition_queues import PartitionQueues
from consumer.partitions.dead_lettering import DeadLettering
from consumer.partitions.scaling import Scaling
from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from tests.support import partitioned
from tests.support.eventually import eventually
from tests.support.partition_faults import Killing
from tests.support.partitioned import KEYS, PartitionedDeployment

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]


ACTS = [(5, False), (5, True), (6, True), (11, False), (11, True), (12, False), (12, True)]
"""
Acts on the broker, and whether the change ends after them: two declarations of the next
generation, and the removal of the bindings and of the queues of the older one.
"""


@pytest.fixture
async def deployment(postgres_url, rabbitmq_url, tmp_path):
    async with PartitionedDeployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        async with deployment.engine.begin() as connection:
            await connection.run_sync(partitioned.metadata.create_all)
        yield deployment


class Ending:
    """A transport that ends the process before or after one act, by an error."""

    def __init__(self, transport: RabbitMQTransport, *, act: int, after: bool) -> None:
        self._transport = transport
        self._act, self._after = act, after
        self._acts = 0

    async def declare(self, topology: Any) -> None:
        await self._do(self._transport.declare(topology))

    async def remove(self, topology: Any) -> Any:
        return await self._do(self._transport.remove(topology))

    async def depth(self, queue: str) -> Any:
        return await self._transport.depth(queue)

    async def _do(self, act: Awaitable[Any]) -> Any:
        self._acts += 1
        if self._acts == self._act and not self._after:
            act.close()  # type: ignore[attr-defined]
            raise BrokerUnavailable("before the act")
        result = await act
        if self._acts == self._act:
            raise BrokerUnavailable("after the act")
        return result


def a_scaling(deployment: PartitionedDeployment, rabbitmq_url: str, **ending: Any) -> Scaling:
    base = ConsumerQueues(
        "health_data_processing.partitioned",
        bindings=["test.even", "test.odd"],
        delays=[timedelta(seconds=0.2)],
        single_active=True,
        is_partitioned=True,
    )
    queues = PartitionQueues(base, "health_data_exchange", "health_data_dlx")
    transport: Any = RabbitMQTransport([URL(rabbitmq_url)], heartbeat_seconds=5, name="test")
    if ending:
        transport = Ending(transport, **ending)
    overlap = timedelta(milliseconds=50)
    dead_lettering = DeadLettering(queues.base, None)
    return Scaling(
        "partitioned", deployment.engine, transport, queues, dead_lettering, overlap=overlap
    )


async def test_a_change_that_ends_at_any_step_is_finished_by_the_next_call(
    deployment, rabbitmq_url
):
    """Each round scales to another number, ends at another act on the broker, and goes on."""
    await deployment.member()
    await deployment.until_shared(4)
    await deployment.relay()
    done, never = asyncio.Event(), asyncio.Event()
    recording = asyncio.create_task(deployment.keep_recording(done))
    said: list[str] = []
    ended = 0

    for round_number, (act, after) in enumerate(ACTS):
        partitions = 2 + round_number % 3
        try:
            ending = a_scaling(deployment, rabbitmq_url, act=act, after=after)
            await ending.scale(partitions, never, said.append)
        except BrokerUnavailable:
            ended += 1
            await a_scaling(deployment, rabbitmq_url).scale(partitions, never, said.append)

    done.set()
    count = await recording
    await deployment.until_taken(count * len(KEYS))
    assert ended == len(ACTS)
    assert await deployment.steps() == {key: list(range(count)) for key in KEYS}
    assert len(await deployment.partitions()) == 1 + partitions


async def test_a_change_that_is_stopped_is_finished_by_the_next_call(deployment, rabbitmq_url):
    """The second call has no process that drains the partitions before; the third one has."""
    member = await deployment.member()
    await deployment.until_shared(4)
    member.kill()
    stopped = asyncio.Event()
    said: list[str] = []
    waiting = asyncio.create_task(
        a_scaling(deployment, rabbitmq_url).scale(2, stopped, said.append)
    )
    await eventually(lambda: any("4 partitions have messages" in line for line in said))
    stopped.set()
    assert not await waiting

    await deployment.member()
    assert await a_scaling(deployment, rabbitmq_url).scale(2, asyncio.Event(), said.append)
    assert await deployment.partitions() == {(0, 0), (2, 0), (2, 1)}


async def test_keys_stay_in_order_while_processes_are_killed_and_partitions_change(deployment):
    members = [await deployment.member() for _ in range(3)]
    await deployment.relay()

    killing = Killing(deployment, members)
    count = await killing.scale_through([6, 3], kills=3)

    assert await deployment.steps() == {key: list(range(count)) for key in KEYS}
    assert await deployment.dead() == []


async def test_a_repair_beside_a_change_binds_no_older_generation_again(deployment, rabbitmq_url):
    """It waits while the change has removed the bindings, and then finds the next generation."""
    await deployment.member()
    await deployment.until_shared(4)
    await deployment.relay()
    done, never = asyncio.Event(), asyncio.Event()
    recording = asyncio.create_task(deployment.keep_recording(done))
    repairs = [asyncio.create_task(repair(deployment, rabbitmq_url, done)) for _ in range(2)]

    for partitions in (3, 5, 2):
        said: list[str] = []
        assert await a_scaling(deployment, rabbitmq_url).scale(partitions, never, said.append)
    done.set()
    count = await recording
    await asyncio.gather(*repairs)
    await deployment.until_taken(count * len(KEYS))

    assert await deployment.steps() == {key: list(range(count)) for key in KEYS}


async def repair(
    deployment: PartitionedDeployment, rabbitmq_url: str, done: asyncio.Event
) -> None:
    """Declare the partitions again without a pause, as processes that start one after another."""
    scaling = a_scaling(deployment, rabbitmq_url)
    while not done.is_set():
        await scaling.begin(4)
