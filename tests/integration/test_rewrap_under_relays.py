"""
Wrapped keys are replaced while relays publish the rows.
"""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from outbox.audit.log import Audit, StatedFilters
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_ring import KeyRing
from outbox.key_operations.rewrap import Run, WrappedAgain
from outbox.key_operations.rewrapping import Wanted
from outbox.tables import outbox
from outbox.wire import row_codec
from tests.integration.test_relay import a_queue, messages_in
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.encrypted_rows import a_ring, key_ids
from tests.support.eventually import eventually

EVENTS, KEYS = 1_000, 20


def twenty_days_ago() -> datetime:
    return datetime.now(UTC) - timedelta(days=20)


async def test_relays_publish_each_row_once_and_in_order(postgres_url, rabbitmq_url, tmp_path):
    ring = a_ring(30, 10)
    older = KeyRing(ring.keys, ring.digest_key(), clock=twenty_days_ago)
    rows = [encrypted(older, number) for number in range(EVENTS)]
    await a_queue(rabbitmq_url)
    stop = asyncio.Event()
    settings = {"MQ_BATCH_SIZE": "50"}
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        async with deployment.engine.begin() as connection:
            await connection.execute(sa.insert(outbox), rows)

        async def rewrap_again_and_again() -> int:
            done = 0
            while not stop.is_set():
                for keys, current in ((ring, "key-10"), (older, "key-30")):
                    run = a_run(deployment, keys, current, stop)
                    await run.run()
                    done += run.summary.done["outbox"]
            return done

        rewrapping = asyncio.create_task(rewrap_again_and_again())
        await deployment.relay()
        await deployment.relay()
        await eventually(deployment.is_drained, within=90)
        stop.set()
        assert await rewrapping > EVENTS / 10

    messages = await messages_in(rabbitmq_url)
    assert len(messages) == EVENTS
    assert set(key_ids([message.body for message in messages])) == {"key-10", "key-30"}
    published = defaultdict(list)
    key_of = {str(row["event_id"]): row["ordering_key"] for row in rows}
    for message in messages:
        published[key_of[message.message_id]].append(message.message_id)
    recorded = defaultdict(list)
    for row in rows:
        recorded[row["ordering_key"]].append(str(row["event_id"]))
    assert published == recorded


def encrypted(keys, number: int):
    row = row_codec.to_row(an_event(ordering_key=f"user-{number % KEYS}"))
    return Encryptor(keys).encrypted(row, compression="none")


def a_run(deployment: Deployment, keys: KeyRing, current: str, stop: asyncio.Event) -> Run:
    return Run(
        engine=deployment.engine,
        wrapped=WrappedAgain(keys),
        wanted=Wanted(current, None),
        audit=Audit(actor="a test", because="x", source="relay", selection=StatedFilters()),
        stop=stop,
        on_progress=lambda _rows: None,
    )
