"""
An ordered consumer applies the messages of a key one after another through every failure.
"""

import asyncio
import json
from collections import defaultdict

import pytest
import sqlalchemy as sa

from consumer.storage.tables import parked_messages
from outbox import Event, insert
from tests.support import ordered
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.probes import get
from tests.support.processes import ChildProcess

KEYS, STEPS = [f"key-{number}" for number in range(8)], 12


@pytest.fixture(params=["postgres", "sqlite"])
def urls(request, tmp_path) -> tuple[str, str]:
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url"), f"sqlite:///{tmp_path / 'broker.db'}"
    return request.getfixturevalue("postgres_url"), request.getfixturevalue("rabbitmq_url")


@pytest.fixture
async def deployment(urls, tmp_path):
    async with Deployment(*urls, tmp_path, MQ_MAX_RETRIES="2") as deployment:
        async with deployment.engine.begin() as connection:
            await ordered.create(connection)
        yield deployment


def an_event(key: str, step: int, **payload) -> Event:
    values = {"key": key, "step": step, **payload}
    return Event("test.step", values, ordering_key=key)


async def record(deployment: Deployment, *events: Event) -> None:
    async with deployment.engine.begin() as connection:
        await connection.execute(insert(*events))


async def steps_of(deployment: Deployment) -> dict[str, list[int]]:
    found = defaultdict(list)
    for row in sorted(await deployment.rows(ordered.steps), key=lambda row: row["id"]):
        found[row["key"]].append(row["step"])
    return found


async def until_subscribed(process: ChildProcess) -> None:
    port = json.loads(await process.wait_for_line("probes_listening"))["port"]
    await eventually(lambda: get(port, "/readyz"))


async def test_a_key_whose_message_fails_waits_and_the_others_flow(deployment):
    """The first key fails once in its third step, the second for ever in its fifth."""
    fails = {(KEYS[0], 2): 1, (KEYS[1], 4): 99}
    events = [
        an_event(key, step, fails=fails.get((key, step), 0))
        for step in range(STEPS)
        for key in KEYS
    ]
    await deployment.ordered_consumer()
    await deployment.relay()
    await record(deployment, *events)

    async def all_done() -> bool:
        return len(await deployment.rows(ordered.steps)) == len(events) - 1

    await eventually(all_done, within=40)

    steps = await steps_of(deployment)
    assert steps.pop(KEYS[1]) == [step for step in range(STEPS) if step != 4]
    assert set(map(tuple, steps.values())) == {tuple(range(STEPS))}
    (dead,) = await deployment.dead()
    assert (dead["reason"], dead["attempts"]) == ("retries_exhausted", 3)
    assert await deployment.rows(parked_messages) == []


async def test_a_process_that_is_stopped_hands_its_keys_over_in_their_order(deployment, tmp_path):
    """
    When the process is asked to stop, it has some of the third steps in flight, which end later;
    others are in its delivery queue, and the rest is at the broker.
    """
    gate, count = tmp_path / "gate", 40
    gated = {2: {"gate": str(gate)}}
    events = [an_event(key, step, **gated.get(step, {})) for step in range(count) for key in KEYS]
    first = await deployment.ordered_consumer()
    await until_subscribed(first)
    second = await deployment.ordered_consumer()
    await until_subscribed(second)
    await deployment.relay()
    await record(deployment, *events)
    await eventually(ordered.reached(gate).exists)
    if deployment.engine.dialect.name != "sqlite":  # there the handler has the database to itself
        await eventually(deployment.is_drained)
    ending = asyncio.create_task(first.terminate(within=30))
    await first.wait_for_line("signal_received")
    gate.touch()

    async def all_done() -> bool:
        return len(await deployment.rows(ordered.steps)) >= len(events)

    assert await ending == 0
    await eventually(all_done, within=40)
    assert await steps_of(deployment) == {key: list(range(count)) for key in KEYS}
    processes = {row["process"] for row in await deployment.rows(ordered.steps)}
    assert processes == {first.pid, second.pid}


async def test_while_a_message_waits_only_its_own_key_does(deployment):
    await deployment.ordered_consumer()
    await deployment.relay()
    deployed = [an_event("stuck", 0, fails=99), an_event("stuck", 1), an_event("free", 0)]
    await record(deployment, *deployed)

    async def parked() -> list[sa.RowMapping]:
        return await deployment.rows(parked_messages)

    await eventually(lambda: steps_of(deployment))
    await eventually(parked)
    assert (await steps_of(deployment))["free"] == [0]


@pytest.mark.parametrize(
    ("times", "attempts"),
    [(2, [2]), (99, [3])],
    ids=["for_no_fault_of_its_own", "each_time"],
)
async def test_a_message_that_waits_and_loses_its_session_is_attempted_again_uncounted(
    postgres_url, rabbitmq_url, tmp_path, times, attempts
):
    """The first attempt fails, so that the message waits; one that loses every session fails."""
    event = an_event(KEYS[0], 0, fails=1, loses_in=2, loses=times)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        async with deployment.engine.begin() as connection:
            await ordered.create(connection)
        consumer = await deployment.ordered_consumer()
        await deployment.relay()
        await record(deployment, event)

        async def done() -> bool:
            return bool(await deployment.rows(ordered.steps))

        await eventually(done, within=40)

        assert [row["attempt"] for row in await deployment.rows(ordered.steps)] == attempts
        assert await deployment.rows(parked_messages) == []
        assert await consumer.terminate() == 0
