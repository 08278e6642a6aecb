"""
Uploads as the documents announce and consume them.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from yarl import URL

import outbox
from consumer.storage.tables import processed_messages
from outbox import Event, HealthDataMessage
from outbox.tables import outbox as rows_of_the_outbox
from outbox.transports.topology import matches
from tests.support.builders import an_event, an_upload
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import REPOSITORY

PAGE = REPOSITORY / "docs" / "explanation" / "coming-from-another-design.md"
STORED_AT = datetime(2025, 9, 22, 12, 0, tzinfo=UTC)


def the_upload(**changes: Any) -> HealthDataMessage:
    """Return the upload of the documents, with a hash that is one."""
    values: dict[str, Any] = {
        "bucket": "health-data",
        "key": "raw/BloodGlucoseRecord/2025/09/22/upload.avro",
        "user_id": "user123",
        "upload_timestamp_utc": STORED_AT,
        "correlation_id": "corr-123",
        "record_count": 10,
    }
    return an_upload(**{**values, **changes})


async def commit(deployment: Deployment, *events: Event | HealthDataMessage) -> None:
    async with deployment.engine.begin() as connection:
        await connection.execute(outbox.insert(*events))


async def test_the_upload_of_the_documents_is_applied_once_though_it_is_announced_twice(
    deployment,
):
    await deployment.relay()
    await deployment.consumer()
    await commit(deployment, the_upload())
    await commit(deployment, the_upload())
    last = an_event()
    await commit(deployment, last)

    async def is_done() -> bool:
        return await deployment.is_drained() and last.id in await deployment.applied()

    await eventually(is_done, within=20, message="the last event was not applied")
    await deployment.applies(2)

    rows = await deployment.rows(processed_messages)
    assert sorted(row["type"] for row in rows) == ["health.data.uploaded", "test.happened"]
    assert len(await deployment.applied()) == 2


def test_the_documented_binding_for_one_word_matches_no_upload():
    """The keys have two more words; the binding of the documents would lose every upload."""
    routing_key = the_upload().to_event().routing_key

    assert routing_key == "health.processing.bloodglucoserecord.normal"
    assert not matches("health.processing.*", routing_key)
    assert matches("health.processing.#", routing_key)


async def test_the_first_node_of_the_list_may_be_unavailable(
    postgres_url, rabbitmq_url, tmp_path: Path
):
    closed = str(URL(rabbitmq_url).with_port(1))
    async with Deployment(postgres_url, f"{closed},{rabbitmq_url}", tmp_path) as deployment:
        await deployment.relay()
        await deployment.consumer()
        upload = the_upload()
        await commit(deployment, upload)

        await deployment.applies(1)

        assert await deployment.applied() == [upload.message_id]


async def test_a_compressed_upload_is_applied(deployment):
    await deployment.consumer()
    event = an_event(payload={"records": ["5.1 mmol/l"] * 1_000}, compression="gzip")
    await commit(deployment, event)
    [stored] = await deployment.rows(rows_of_the_outbox)
    await deployment.relay()

    await deployment.applies(1)

    assert stored["content_encoding"] == "gzip"
    assert await deployment.applied() == [event.id]


async def test_uploads_are_handled_at_the_same_time_up_to_the_concurrency(
    postgres_url, rabbitmq_url, tmp_path: Path
):
    """Each handler works for a second: one after another, the last would begin after three."""
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, MQ_CONCURRENCY="4") as deployment:
        await deployment.relay()
        consumer = await deployment.consumer()
        await commit(deployment, *(an_event(type="test.takes.a.second") for _ in range(4)))

        def all_work() -> bool:
            return consumer.output.count("handler_works") == 4

        await eventually(all_work, within=20, message="no four handlers have begun")
        assert await deployment.applied() == []
        await deployment.applies(4)


async def test_the_statement_of_the_page_finds_the_upload_whose_event_is_missing(deployment):
    statement = sa.text(the_statement())
    await deployment.relay()
    await deployment.consumer()
    applied, failing, unroutable, forgotten = (
        an_event(type=name)
        for name in ("test.happened", "test.fails.always", "payment.made", "test.happened")
    )
    async with deployment.engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE uploads (event_id uuid)"))
        table = sa.table("uploads", sa.column("event_id", sa.Uuid()))
        ids = [each.id for each in (applied, failing, unroutable, forgotten)]
        await connection.execute(sa.insert(table), [{"event_id": id_} for id_ in ids])
    await commit(deployment, applied, failing, unroutable)

    async def only_the_forgotten_one() -> bool:
        async with deployment.engine.connect() as connection:
            found = (await connection.execute(statement)).scalars().all()
        return [UUID(str(id_)) for id_ in found] == [forgotten.id]

    await deployment.applies(1)
    await eventually(only_the_forgotten_one, within=20, message="another upload is missing")


def the_statement() -> str:
    """Return the statement of the page."""
    section = PAGE.read_text().partition("### Find what is missing\n")[2]
    found = re.search(r"```sql\n(.*?);\n```", section, re.DOTALL)
    assert found is not None
    return found[1]
