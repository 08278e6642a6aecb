"""
The main job, end to end, with real processes on real servers.
"""

import asyncio
import json
from uuid import UUID, uuid4

import aio_pika
import pytest

import outbox
from outbox.tables import outbox as outbox_table
from tests.support.builders import LEAK_MARKER, an_event, an_upload
from tests.support.deployment import Deployment
from tests.support.effects import effects
from tests.support.eventually import eventually


@pytest.fixture
async def deployment(urls, tmp_path):
    async with Deployment(*urls, tmp_path, MQ_UNSUPPORTED_WAIT_SECONDS="0") as deployment:
        yield deployment


async def commit(deployment: Deployment, *events) -> None:
    async with deployment.engine.begin() as connection:
        await connection.execute(outbox.insert(*events))


async def test_a_committed_event_is_applied_once_and_a_rolled_back_one_never(deployment):
    await deployment.relay()
    await deployment.consumer()
    upload, ghost = an_upload(), an_upload()
    async with deployment.engine.connect() as connection:
        await connection.execute(outbox.insert(ghost))
        await connection.rollback()
    await commit(deployment, upload)

    await deployment.applies(1)

    assert await deployment.applied() == [upload.message_id]
    await eventually(deployment.is_drained)


async def test_a_failed_attempt_leaves_nothing_and_the_retry_applies_the_event(deployment):
    await deployment.relay()
    await deployment.consumer()
    event = an_event(type="test.fails.once")
    await commit(deployment, event)

    await deployment.applies(1)

    rows = await deployment.rows(effects)
    assert [row["attempt"] for row in rows] == [2]
    assert await deployment.dead() == []


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_events_are_published_as_cloudevents_and_applied_once(
    mode, postgres_url, rabbitmq_url, tmp_path
):
    source = "https://clinic.example"
    settings = {"MQ_CLOUDEVENTS": mode, "MQ_CLOUDEVENTS_SOURCE": source}
    events = [an_event(type="test.fails.once", ordering_key="patient-7"), an_upload().to_event()]
    async with (
        Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment,
        await aio_pika.connect(rabbitmq_url) as connection,
        connection.channel() as channel,
    ):
        await deployment.consumer()
        spy = await channel.declare_queue("spy", durable=True)
        await spy.bind("health_data_exchange", "#")
        await deployment.relay()
        await commit(deployment, *events)

        await deployment.applies(2)

        assert set(await deployment.applied()) == {event.id for event in events}
        assert await deployment.dead() == []
        for _ in events:
            message = await spy.get(no_ack=True)
            attributes = json.loads(message.body) if mode == "structured" else message.headers
            prefix = "" if mode == "structured" else "cloudEvents_"
            assert attributes[f"{prefix}source"] == source
            assert attributes[f"{prefix}id"] == message.message_id
            assert "patient-7" not in f"{message.headers}{message.body!r}"


async def test_events_that_a_handler_adds_are_published_in_turn(deployment):
    await deployment.relay()
    await deployment.consumer()
    second = uuid4()
    first = an_event(type="test.leads.on", payload={"next": str(second)})
    await commit(deployment, first)

    await deployment.applies(2)

    assert set(await deployment.applied()) == {first.id, second}


async def test_no_health_data_shows_in_logs_headers_or_error_columns(deployment):
    await deployment.relay()
    await deployment.consumer()
    failing = an_event(type="test.fails.always", payload={"note": LEAK_MARKER})
    await commit(
        deployment,
        an_upload(record_type="Canary"),
        failing,
        an_event(type="test.unknown", payload=LEAK_MARKER),
    )

    async def both_dead() -> bool:
        return len(await deployment.dead()) == 2

    await eventually(both_dead, within=20)
    await deployment.applies(1)

    dead = {row["message_id"]: row for row in await deployment.dead()}
    failed = dead[str(failing.id)]
    assert (failed["source"], failed["reason"]) == ("effects", "retries_exhausted")
    assert (failed["attempts"], failed["body"]) == (4, failing.body)
    assert failed["headers"]["x-outbox-routing-key"] == "test.fails.always"
    assert LEAK_MARKER not in deployment.logs()
    for row in dead.values():
        shown = {name: value for name, value in row.items() if name != "body"}
        assert LEAK_MARKER not in str(shown)


async def test_sigterm_drains_and_ends_with_status_0(deployment):
    relay, consumer = await deployment.relay(), await deployment.consumer()
    await commit(deployment, *(an_event() for _ in range(200)))
    await deployment.applies(1)

    assert await relay.terminate() == 0
    assert await consumer.terminate() == 0


async def test_ten_thousand_events_survive_a_sigkill_of_a_relay_and_of_a_consumer(
    postgres_url, rabbitmq_url, rabbitmq_server, rabbitmq_vhost, tmp_path
):
    """
    Given two relays and two consumers, when one of each is killed under load,
    then the effects are exactly the committed events, once each, and nothing is left anywhere.
    """
    total, per_transaction = 10_000, 100
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        relays = [await deployment.relay() for _ in range(2)]
        consumers = [await deployment.consumer() for _ in range(2)]
        committed: set[UUID] = set()

        async def produce() -> None:
            for number in range(total // per_transaction):
                uploads = [an_upload(user_id=f"{number}-{i}") for i in range(per_transaction)]
                async with deployment.engine.connect() as connection:
                    await connection.execute(outbox.insert(*uploads))
                    await connection.execute(outbox.insert(an_upload()))
                    await connection.rollback()
                    await connection.execute(outbox.insert(*uploads))
                    await connection.commit()
                committed.update(upload.message_id for upload in uploads)

        producing = asyncio.create_task(produce())
        await deployment.applies(total // 10, within=60)
        relays[0].kill()
        await deployment.applies(total // 5, within=60)
        consumers[0].kill()
        await producing
        await deployment.applies(total, within=100)

        applied = await deployment.applied()
        assert len(committed) == total
        assert sorted(applied) == sorted(committed)
        assert await deployment.rows(outbox_table) == []
        assert await deployment.dead() == []

        async def drained() -> bool:
            depths = await rabbitmq_server.http.queues(rabbitmq_vhost)
            return bool(depths) and not any(d.ready or d.unacked for d in depths.values())

        await eventually(drained, within=30, message="messages are left in the queues")
        assert await relays[1].terminate() == 0
        assert await consumers[1].terminate() == 0
