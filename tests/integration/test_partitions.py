"""
An ordered consumer with partitions: many processes, and the order of each key.
"""

import asyncio
from collections import defaultdict

import pytest

from consumer.storage.tables import consumer_partitions, parked_messages
from outbox import Event, insert
from tests.support import ordered
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

TARGET = "tests.support.partitioned:consumer"
KEYS = [f"key-{number}" for number in range(24)]


@pytest.fixture
async def deployment(postgres_url, rabbitmq_url, tmp_path):
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        async with deployment.engine.begin() as connection:
            await ordered.create(connection)
        yield deployment


def an_event(key: str | None, step: int, **payload) -> Event:
    return Event("test.step", {"key": key or "", "step": step, **payload}, ordering_key=key)


async def record(deployment: Deployment, *events: Event) -> None:
    async with deployment.engine.begin() as connection:
        await connection.execute(insert(*events))


async def steps_of(deployment: Deployment) -> dict[str, list[int]]:
    found = defaultdict(list)
    for row in sorted(await deployment.rows(ordered.steps), key=lambda row: row["id"]):
        found[row["key"]].append(row["step"])
    return found


async def until_applied(deployment: Deployment, count: int, *, within: float = 40) -> None:
    async def all_applied() -> bool:
        return len(await deployment.rows(ordered.steps)) >= count

    try:
        await eventually(all_applied, within=within)
    except AssertionError as late:
        late.add_note(deployment.logs())
        raise


async def owners(deployment: Deployment) -> list[int]:
    """How many partitions each process reads, in rising order; of the newest generation."""
    rows = await deployment.rows(consumer_partitions)
    newest = max((row["generation"] for row in rows), default=0)
    read = defaultdict(int)
    for row in rows:
        if row["generation"] == newest and row["owner"] is not None:
            read[row["owner"]] += 1
    return sorted(read.values())


async def until_shared(deployment: Deployment, *shares: int) -> None:
    async def as_wanted() -> bool:
        return await owners(deployment) == sorted(shares)

    await eventually(as_wanted, within=20)


async def test_processes_share_the_partitions_and_keep_the_order_of_each_key(deployment):
    first = await deployment.consumer("partitioned")
    second = await deployment.consumer("partitioned")
    await until_shared(deployment, 2, 2)
    await deployment.relay()
    await record(deployment, *(an_event(key, step) for step in range(20) for key in KEYS))

    await until_applied(deployment, 20 * len(KEYS))

    assert await steps_of(deployment) == {key: list(range(20)) for key in KEYS}
    processes = {row["process"] for row in await deployment.rows(ordered.steps)}
    assert processes == {first.pid, second.pid}


async def test_a_process_that_is_killed_loses_its_partitions_to_the_others(deployment):
    first = await deployment.consumer("partitioned")
    await deployment.consumer("partitioned")
    await until_shared(deployment, 2, 2)
    await deployment.relay()
    await record(deployment, *(an_event(key, step) for step in range(10) for key in KEYS))
    await until_applied(deployment, len(KEYS))

    first.kill()
    await record(deployment, *(an_event(key, step) for step in range(10, 20) for key in KEYS))
    await until_applied(deployment, 20 * len(KEYS))

    assert await steps_of(deployment) == {key: list(range(20)) for key in KEYS}
    await until_shared(deployment, 4)


async def test_messages_without_a_key_are_spread_over_the_partitions(deployment):
    first = await deployment.consumer("partitioned")
    second = await deployment.consumer("partitioned")
    await until_shared(deployment, 2, 2)
    await deployment.relay()
    await record(deployment, *(an_event(None, step) for step in range(60)))

    await until_applied(deployment, 60)

    rows = await deployment.rows(ordered.steps)
    assert sorted(row["step"] for row in rows) == list(range(60))
    assert {row["process"] for row in rows} == {first.pid, second.pid}


async def test_failed_messages_come_back_to_their_partitions(deployment):
    """One with a key waits in the database, one without in the retry queue of the consumer."""
    await deployment.consumer("partitioned")
    await until_shared(deployment, 4)
    await deployment.relay()
    events = [an_event(key, step) for step in range(3) for key in KEYS[:4]]
    failing = an_event(KEYS[0], 3, fails=1)
    await record(deployment, *events, failing, an_event(KEYS[0], 4), an_event(None, 0, fails=1))

    await until_applied(deployment, len(events) + 3)

    steps = await steps_of(deployment)
    assert steps.pop("") == [0]
    assert steps.pop(KEYS[0]) == [0, 1, 2, 3, 4]
    assert await deployment.rows(parked_messages) == []
    assert await deployment.dead() == []


async def test_partitions_are_added_and_removed_under_load(deployment):
    for _ in range(2):
        await deployment.consumer("partitioned")
    await deployment.relay()
    count = 0

    async def load(until: asyncio.Event) -> None:
        nonlocal count
        while not until.is_set():
            await record(deployment, *(an_event(key, count) for key in KEYS))
            count += 1
            await until_applied(deployment, (count - 5) * len(KEYS))

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(load(done))
        for partitions in (7, 2):
            ended = await deployment.run("consumer", "scale", TARGET, str(partitions))
            assert ended.code == 0, ended
            assert f"has {partitions} partitions" in ended.out
        done.set()
    await until_applied(deployment, count * len(KEYS))

    assert await steps_of(deployment) == {key: list(range(count)) for key in KEYS}
    assert await deployment.dead() == []
    rows = await deployment.rows(consumer_partitions)
    assert {(row["generation"], row["number"]) for row in rows} == {(0, 0), (3, 0), (3, 1)}
