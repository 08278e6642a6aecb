"""
The trace of an ordering key outside the database, seen by another program at the broker.
"""

from datetime import UTC, datetime, timedelta

import aio_pika

from tests.integration.test_relay import a_queue, commit, messages_in
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

LANE, RECORDED_AT = "x-outbox-lane", "x-outbox-recorded-at"


async def published_by_a_new_relay(
    deployment: Deployment, broker_url: str, *keys: str | None
) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """The messages of one new event for each of *keys*, in their order."""
    relay = await deployment.relay()
    events = [an_event(ordering_key=key) for key in keys]
    await commit(deployment, *events)
    await eventually(deployment.is_drained)
    assert await relay.terminate() == 0
    published = {message.message_id: message for message in await messages_in(broker_url)}
    return [published[str(event.id)] for event in events]


async def test_relays_of_one_database_agree_on_the_lane_of_a_key_and_databases_differ(
    sqlite_url, postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    lanes = []
    for url in (sqlite_url, postgres_url):
        async with Deployment(url, rabbitmq_url, tmp_path) as deployment:
            first = await published_by_a_new_relay(
                deployment, rabbitmq_url, LEAK_MARKER, "another"
            )
            (second,) = await published_by_a_new_relay(deployment, rabbitmq_url, LEAK_MARKER)
        assert first[0].headers[LANE] == second.headers[LANE]
        lanes += [message.headers[LANE] for message in first]

    assert len(set(lanes)) == 4


async def test_no_published_field_has_the_key_and_a_message_without_one_has_no_lane(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    began = datetime.now(UTC)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        keyed, unkeyed = await published_by_a_new_relay(
            deployment, rabbitmq_url, LEAK_MARKER, None
        )

        assert LEAK_MARKER not in deployment.logs()
    assert LEAK_MARKER not in repr((keyed.info(), keyed.properties, keyed.body))
    assert LANE not in unkeyed.headers
    for message in (keyed, unkeyed):
        recorded_at = datetime.fromtimestamp(message.headers[RECORDED_AT], UTC)
        assert abs(recorded_at - began) < timedelta(minutes=1)


async def test_an_event_keeps_its_time_of_recording_on_every_republish(
    postgres_url, rabbitmq_url, tmp_path
):
    """An event that waited for an hour was not recorded just now."""
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        event = an_event(ordering_key=LEAK_MARKER)
        await commit(deployment, event)
        async with deployment.engine.begin() as connection:
            await connection.exec_driver_sql(
                "UPDATE outbox SET created_at = '2026-01-02 03:04:05.678901+00'"
            )
        await deployment.relay()
        await eventually(deployment.is_drained)

    (message,) = await messages_in(rabbitmq_url)
    assert message.headers[RECORDED_AT] == 1_767_323_045
