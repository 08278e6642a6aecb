"""
Redis as the broker: the server is killed, processes are killed, and a primary is lost.

The server replies to a publish when the message is on its disk (`appendfsync always`). A replica
gets it later, so the loss of a primary is another fault: see docs/how-to/redis.md.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.figures import lost
from tests.reliability.history import Produced
from tests.support.checked_deployment import CheckedDeployment
from tests.support.effects import consumer
from tests.support.eventually import eventually
from tests.support.outcomes import read_outcomes
from tests.support.process_kills import survive_kills
from tests.support.servers.redis_groups import Member, RedisPair

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

EVENTS = 50
CRASHES = 5
KILLS = 20
MOST_BETWEEN = 0.6
"""Seconds between kills; a lease of a killed consumer ends after ten."""


@pytest.mark.selection
async def test_repeated_crashes_of_redis_lose_no_event_and_apply_none_twice(
    postgres_url, redis_server, redis_url, tmp_path
):
    """Redis killed under load with `appendfsync always`, again and again."""
    jitter = random.Random(32)
    async with CheckedDeployment(postgres_url, redis_url, tmp_path) as deployment:
        await deployment.start_processes()
        async with deployment.under_load():
            for _ in range(CRASHES):
                with deployment.record_fault("Redis killed"):
                    await redis_server.kill()
                    await deployment.wait(jitter.uniform(0, 0.5))
                    await redis_server.start()
                await deployment.makes_progress(by=20)
        await deployment.wait_until_settled()

        await deployment.check_guarantees()


async def test_processes_killed_repeatedly_on_redis_lose_no_event_and_apply_none_twice(
    postgres_url, redis_url, tmp_path
):
    """Relays and consumers killed under load, while Redis goes on."""
    async with CheckedDeployment(postgres_url, redis_url, tmp_path) as deployment:
        await survive_kills(deployment, kills=KILLS, most_between=MOST_BETWEEN, seed=33)


@pytest.mark.selection
async def test_processes_find_the_new_primary_and_lose_no_event_that_its_replica_had(
    postgres_url, redis_binaries, tmp_path
):
    """The primary of a Sentinel pair is killed, when its replica has everything."""
    async with (
        a_pair(redis_binaries) as pair,
        CheckedDeployment(postgres_url, pair.url(), tmp_path) as deployment,
    ):
        relay, _consumer = await deployment.start_processes()
        await works(deployment)
        relay.freeze()
        primary = await pair.primary()
        await primary.call("WAIT", 1, 5_000)
        async with deployment.producing():
            with deployment.record_fault("primary killed"):
                await primary.kill()
                await pair.fail_over_from(primary)
            relay.thaw()
            await deployment.makes_progress()
        await deployment.wait_until_settled()

        await deployment.check_guarantees()


async def test_a_primary_that_needs_a_replica_confirms_nothing_that_a_failover_would_lose(
    postgres_url, redis_binaries, tmp_path
):
    """A replica stops, and then the primary is killed; `min-replicas-to-write` is 1."""
    settings = {"min-replicas-to-write": 1, "min-replicas-max-lag": 1}
    async with (
        a_pair(redis_binaries, settings=settings) as pair,
        CheckedDeployment(postgres_url, pair.url(), tmp_path) as deployment,
    ):
        await deployment.start_processes()
        await works(deployment)
        primary, replica = pair.servers
        with deployment.record_fault("replica stopped, primary killed"):
            with replica.frozen():
                await refuses_writes(primary)
                await deployment.produce(EVENTS)
                await deployment.assert_outbox_stays(count=EVENTS, during=2)
            await pair.sees_replica()
            await primary.kill()
            await pair.fail_over_from(primary)
            await primary.start()  # it follows the new primary, which needs a replica too
        await deployment.wait_until_settled()

        await deployment.check_guarantees()


async def test_a_relay_that_waits_for_a_replica_loses_nothing_in_a_failover(
    postgres_url, redis_binaries, tmp_path
):
    """The same with `MQ_REDIS_REPLICAS`: what only the lost primary had is published again."""
    settings = {"MQ_REDIS_REPLICAS": "1", "MQ_PUBLISH_TIMEOUT_SECONDS": "2"}
    async with (
        a_pair(redis_binaries) as pair,
        CheckedDeployment(postgres_url, pair.url(), tmp_path, **settings) as deployment,
    ):
        await deployment.start_processes()
        await works(deployment)
        primary, replica = pair.servers
        with deployment.record_fault("replica cut off, primary killed"):
            with replica.frozen():
                await primary.call("CLIENT", "KILL", "TYPE", "replica")
                await deployment.produce(EVENTS)
                await deployment.assert_outbox_stays(count=EVENTS)
                await primary.kill()
            await pair.fail_over_from(primary)
            await primary.start()  # it follows the new primary
        await deployment.wait_until_settled()

        await deployment.check_guarantees()


async def test_a_failover_loses_what_only_the_lost_primary_had(
    postgres_url, redis_binaries, tmp_path
):
    """A replica stops, events are published, and then the primary is killed."""
    async with (
        a_pair(redis_binaries) as pair,
        CheckedDeployment(postgres_url, pair.url(), tmp_path) as deployment,
    ):
        _relay, consuming = await deployment.start_processes()
        await works(deployment)
        primary, replica = pair.servers
        consuming.freeze()
        with replica.frozen():
            # Or the messages would be in the replica's socket, and so with the replica.
            await primary.call("CLIENT", "KILL", "TYPE", "replica")
            await deployment.produce(EVENTS)
            await eventually(deployment.is_drained, message="events were not published")
            await primary.kill()
        await pair.fail_over_from(primary)
        consuming.thaw()
        gone = produced_last(deployment)
        await deployment.produce(EVENTS)
        later = produced_last(deployment)

        async def are_applied() -> bool:
            return later <= {str(identity) for identity in await deployment.applied()}

        await eventually(are_applied, within=60, message="events after the failover wait")
        history = [*deployment.history, *await read_outcomes(deployment)]
        assert set(lost(history, [consumer.name])[consumer.name]) == gone


def produced_last(deployment: CheckedDeployment) -> set[str]:
    produced = [each for each in deployment.history if isinstance(each, Produced)]
    return {each.id for each in produced[-EVENTS:]}


@asynccontextmanager
async def a_pair(binaries: Path, **options: Any) -> AsyncIterator[RedisPair]:
    pair = RedisPair(binaries, **options)
    try:
        await pair.start()
        yield pair
    finally:
        pair.close()


async def refuses_writes(primary: Member) -> None:
    """Wait until *primary* counts its replica as lost."""

    async def has_none() -> bool:
        return (await primary.facts("replication"))["min_slaves_good_slaves"] == "0"

    await eventually(has_none, message="the replica still counts")


async def works(deployment: CheckedDeployment) -> None:
    """Events take effect before there is a fault."""
    async with deployment.under_load():
        await deployment.makes_progress()
    await deployment.wait_until_settled()
