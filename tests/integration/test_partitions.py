"""
An ordered consumer with partitions: many processes, and the order of each key.
"""

import asyncio
from datetime import timedelta

import pytest

from consumer.storage.tables import parked_messages
from tests.support import partitioned
from tests.support.partitioned import KEYS, TARGET, PartitionedDeployment, an_event, in_turn


@pytest.fixture
async def deployment(postgres_url, rabbitmq_url, tmp_path):
    async with PartitionedDeployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        async with deployment.engine.begin() as connection:
            await connection.run_sync(partitioned.metadata.create_all)
        yield deployment


async def test_processes_share_the_partitions_and_keep_the_order_of_each_key(deployment):
    first, second = await deployment.member(), await deployment.member()
    await deployment.until_shared(2, 2)
    await deployment.relay()
    await deployment.record(*in_turn(range(20)))

    await deployment.until_taken(20 * len(KEYS))

    assert await deployment.steps() == {key: list(range(20)) for key in KEYS}
    assert await deployment.processes() == {first.pid, second.pid}


async def test_a_process_that_is_killed_loses_its_partitions_to_the_others(deployment):
    first, _ = await deployment.member(), await deployment.member()
    await deployment.until_shared(2, 2)
    await deployment.relay()
    await deployment.record(*in_turn(range(10)))
    await deployment.until_taken(len(KEYS))

    first.kill()
    await deployment.record(*in_turn(range(10, 20)))
    await deployment.until_taken(20 * len(KEYS))

    assert await deployment.steps() == {key: list(range(20)) for key in KEYS}
    await deployment.until_shared(4)


async def test_a_process_that_is_stopped_hands_its_partitions_over_at_once(deployment):
    first, _ = await deployment.member(), await deployment.member()
    await deployment.until_shared(2, 2)
    await deployment.relay()
    done = asyncio.Event()
    recording = asyncio.create_task(deployment.keep_recording(done))
    await deployment.until_taken(len(KEYS))

    assert await first.terminate(within=20) == 0
    await deployment.until_shared(4)
    done.set()
    count = await recording
    await deployment.until_taken(count * len(KEYS))

    assert await deployment.steps() == {key: list(range(count)) for key in KEYS}
    assert await deployment.longest_pause() < timedelta(seconds=10)


async def test_messages_without_a_key_are_spread_over_the_partitions(deployment):
    first, second = await deployment.member(), await deployment.member()
    await deployment.until_shared(2, 2)
    await deployment.relay()
    await deployment.record(*(an_event(None, step) for step in range(60)))

    await deployment.until_taken(60)

    assert sorted((await deployment.steps())[""]) == list(range(60))
    assert await deployment.processes() == {first.pid, second.pid}


async def test_failed_messages_come_back_to_their_partitions(deployment):
    """One with a key waits in the database, one without in the retry queue of the consumer."""
    await deployment.member()
    await deployment.until_shared(4)
    await deployment.relay()
    failing = [an_event(KEYS[0], 3, fails=1), an_event(KEYS[0], 4), an_event(None, 0, fails=1)]
    await deployment.record(*in_turn(range(3)), *failing)

    await deployment.until_taken(3 * len(KEYS) + 3)

    steps = await deployment.steps()
    assert (steps.pop(""), steps.pop(KEYS[0])) == ([0], [0, 1, 2, 3, 4])
    assert set(map(tuple, steps.values())) == {(0, 1, 2)}
    assert await deployment.rows(parked_messages) == []
    assert await deployment.dead() == []


async def test_partitions_are_added_and_removed_under_load(deployment):
    for _ in range(2):
        await deployment.member()
    await deployment.relay()
    done = asyncio.Event()
    recording = asyncio.create_task(deployment.keep_recording(done))

    await deployment.scale(7)
    await deployment.scale(2)
    done.set()
    count = await recording
    await deployment.until_taken(count * len(KEYS))

    assert await deployment.steps() == {key: list(range(count)) for key in KEYS}
    # A second on a machine that does nothing else.
    assert await deployment.longest_pause() < timedelta(seconds=10)
    assert await deployment.partitions() == {(0, 0), (3, 0), (3, 1)}
    assert await deployment.dead() == []


async def test_a_preview_names_the_step_and_changes_nothing(deployment):
    await deployment.member()
    await deployment.until_shared(4)

    ended = await deployment.run("consumer", "scale", TARGET, "9", "--dry-run")

    assert ended.code == 0
    assert "from 4 to 9 partitions" in ended.out
    assert len(await deployment.partitions()) == 5


async def test_the_status_lists_the_partitions_and_who_reads_them(deployment):
    await deployment.member()
    await deployment.until_shared(4)

    ended = await deployment.run("consumer", "status", TARGET, "--json")

    assert ended.code == 0, ended
    assert '"generation": 1, "number": 3, "state": "read", "messages": 0' in ended.out
    assert '"generation": 0, "number": 0, "state": "drained"' in ended.out
