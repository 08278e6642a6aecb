"""
Events that name an exchange, from the outbox to the consumer, in processes.
"""

import json
from typing import Any

import pytest
import sqlalchemy as sa

from outbox import insert
from outbox.tables import outbox
from outbox.wire.headers import EXCHANGE_HEADER
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

TARGET = "tests.support.routed:consumer"
QUEUE = "health_data_processing.routed"
WARD = {"source": "ward", "schema-version": 2}


@pytest.fixture(params=["sqlite", "servers"])
def urls(request, tmp_path) -> tuple[str, str]:
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url"), f"sqlite:///{tmp_path / 'broker.db'}"
    return request.getfixturevalue("postgres_url"), request.getfixturevalue("rabbitmq_url")


@pytest.fixture
async def deployment(urls, tmp_path, request):
    logs = tmp_path / "logs"
    logs.mkdir()
    settings = {"MQ_MAX_RETRIES": "1"}
    if urls[1].startswith("amqp"):
        settings["MQ_MANAGEMENT_URL"] = request.getfixturevalue("rabbitmq_server").management_url
    async with Deployment(*urls, logs, **settings) as deployment:
        yield deployment


async def record(deployment: Deployment, **fields: Any) -> Any:
    """Record an event, and return its id."""
    event = an_event(**{"type": "health.happened", **fields})
    async with deployment.engine.begin() as connection:
        await connection.execute(insert(event))
    return event.id


async def test_an_event_takes_effect_whatever_the_kind_of_its_exchange(deployment):
    await deployment.consumer("routed")
    await deployment.relay()
    routed = [
        {"routing_key": "health.plain"},
        {"exchange": "exact", "routing_key": "health.exact"},
        {"exchange": "exact", "routing_key": "health.spare.one"},
        {"exchange": "by_source", "headers": WARD},
        {"exchange": "vitals", "headers": WARD},
        {"routing_key": "health.vitals.pulse", "headers": WARD},
        {"exchange": "", "routing_key": QUEUE},
        {"exchange": "vitals", "headers": WARD, "type": "health.fails.once"},
    ]
    wanted = {await record(deployment, **fields) for fields in routed}

    await deployment.applies(len(wanted))

    assert set(await deployment.applied()) == wanted
    assert len(await deployment.applied()) == len(wanted)
    await eventually(deployment.is_drained)


async def test_an_event_that_its_exchange_leads_nowhere_stays_and_is_named(deployment):
    await deployment.consumer("routed")
    await deployment.relay()
    await record(deployment, exchange="exact", routing_key="health.other")
    await record(deployment, exchange="nowhere", routing_key="health.plain")
    await record(deployment, exchange="", routing_key="no-queue")
    await record(deployment, exchange="vitals", headers={"source": "lab"})

    async def attempted() -> bool:
        return all(row["attempts"] for row in await deployment.rows(outbox))

    await eventually(attempted)
    check = await deployment.run("relay", "check", "--json")
    status = await deployment.run("relay", "status", "--json")

    texts = [each["text"] for each in json.loads(check.out) if each["status"] == "error"]
    assert any("health.plain: exchange nowhere does not exist" in text for text in texts)
    assert any("health.other" in text and "exchange exact" in text for text in texts)
    assert any("no-queue" in text and "default exchange" in text for text in texts)
    routes = {
        (route["exchange"], route["binding"])
        for group in json.loads(status.out)["outbox"]["events"]
        for route in group["routes"]
    }
    assert routes == {
        ("exact", "no_queue"),
        ("nowhere", "no_exchange"),
        ("", "no_queue"),
        ("vitals", "unknown"),
    }


async def test_a_dead_letter_keeps_the_exchange_and_is_replayed_to_its_queue(deployment):
    await deployment.consumer("routed")
    await deployment.relay()
    failed = {"exchange": "vitals", "headers": WARD, "type": "health.fails.always"}
    id_ = await record(deployment, **failed)

    async def given_up() -> bool:
        return bool(await deployment.dead())

    await eventually(given_up)
    [letter] = await deployment.dead()
    assert (letter["headers"][EXCHANGE_HEADER], letter["message_id"]) == ("vitals", str(id_))

    replayed = await deployment.run(
        "consumer", "dead", "replay", TARGET, "--all", "--because", "ticket 7"
    )
    assert replayed.code == 0, replayed.err

    async def given_up_again() -> bool:
        return [row["headers"][EXCHANGE_HEADER] for row in await deployment.dead()] == ["vitals"]

    await eventually(given_up_again)


async def test_the_sql_function_records_the_exchange(postgres_url, rabbitmq_url, tmp_path):
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        async with deployment.engine.begin() as connection:
            for exchange in ("exchange => 'vitals'", "exchange => ''", "priority => 'high'"):
                await connection.execute(sa.text(f"SELECT outbox_add('a.b', '{{}}', {exchange})"))

        found = await deployment.rows(outbox)

    assert [row["exchange"] for row in found] == ["vitals", "", None]
