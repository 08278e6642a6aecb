"""
Each program of `docs/how-to/other-clients.md`, as it stands there: to our consumer and from us.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import aio_pika
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from outbox import Event
from outbox.database.engine import create_engine
from outbox.tables import dead_letters, outbox
from outbox.wire.cloudevents_writer import CloudEventsWriter
from tests.support.builders import on_the_wire
from tests.support.consumer_deployment import EXCHANGE, SOON, broker
from tests.support.eventually import eventually
from tests.support.other_clients.programs import Programs, programs
from tests.support.running_consumer import running

pytestmark = pytest.mark.timeout(600)  # the first run of a checkout installs the libraries

CLIENTS = {
    "with_amqplib.mjs": "amqplib",
    "with_kombu.py": "kombu",
    "with_celery.py": "celery",
    "with_faststream.py": "faststream",
    "with_cloudevents.py": "cloudevents",
    "with_cloudevents.mjs": "cloudevents_node",
}
AMQP_1_0 = "with_rhea.mjs"
ENCRYPTED = ("with_pg_encrypted.mjs", "with_amqplib_encrypted.mjs")
SQL = ("psycopg.py", "asyncpg.py", "pg.mjs", "django.py", "sqlmodel.py")
STARTED = 60.0
"""Seconds: the programs start at the same time, and some import much."""


@asynccontextmanager
async def consuming(database_url: str, broker_url: str) -> AsyncIterator[list[Message[Any]]]:
    """The messages that a consumer has handled, in their order."""
    handled: list[Message[Any]] = []
    etl = Consumer("etl", bindings=["ward.left"])

    @etl.on("ward.left")
    async def left(message: Message[Any], _session: AsyncSession) -> None:
        handled.append(message)

    async with running(etl, database_url, broker_url, unsupported_wait_seconds=0):
        yield handled


async def dead_letters_of(database_url: str) -> Counter[tuple[str, str]]:
    engine = create_engine(make_url(database_url), pool_size=2, application_name="test")
    async with engine.connect() as connection:
        found = await connection.execute(sa.select(dead_letters.c.reason, dead_letters.c.type))
        rows = Counter((row.reason, row.type) for row in found)
    await engine.dispose()
    return rows


async def publish(broker_url: str, event: Event, mode: Any, *, queue: str | None = None) -> None:
    """Publish *event* as the relay does, to the exchange or to one *queue*."""
    exchange = EXCHANGE if queue is None else ""
    message = on_the_wire(event, exchange=exchange)
    written = CloudEventsWriter(mode, "https://clinic.example", "ce-").written(message)
    written.routing_key = queue or written.routing_key
    async with broker(broker_url).publisher() as publisher:
        await publisher.publish([written], within=SOON)


def clients_of(messages: list[Message[Any]]) -> Counter[str]:
    return Counter(message.payload["client"] for message in messages)


def test_the_page_has_no_program_that_is_not_run():
    assert set(programs()) == {
        *(*CLIENTS, AMQP_1_0, *ENCRYPTED),
        *(f"with_{name}" for name in SQL),
    }


async def test_every_client_publishes_to_a_consumer_and_consumes_from_the_relay(
    postgres_url, rabbitmq_url, other_clients, tmp_path
):
    files = Programs(other_clients, tmp_path, BROKER_URL=rabbitmq_url)
    admitted = Event("ward.admitted", {"bed": "b-17"}, idempotency_key="key-of-b-17")
    again = Event("ward.admitted", {"bed": "b-18"}, idempotency_key="key-of-b-18")
    async with consuming(postgres_url, rabbitmq_url) as handled, AsyncExitStack() as stack:
        started = {
            client: await stack.enter_async_context(files.program(name))
            for name, client in CLIENTS.items()
        }
        for client, program in started.items():
            try:
                await eventually(
                    lambda client=client, program=program: (
                        client in clients_of(handled) or not program.running
                    ),
                    within=STARTED,
                )
            finally:
                assert client in clients_of(handled), program.tail

        await publish(rabbitmq_url, admitted, "binary")
        for client in ("cloudevents", "cloudevents_node"):
            await publish(rabbitmq_url, again, "structured", queue=f"ward_board.{client}")

        for client, program in started.items():
            line = await program.wait_for_line("key-of-b-17")
            assert "ward.admitted" in line
            assert "b-17" in line
            if client.startswith("cloudevents"):
                assert "b-18" in await program.wait_for_line("key-of-b-18")

    # The CloudEvents programs publish one event in both modes.
    assert clients_of(handled) == dict.fromkeys(CLIENTS.values(), 1)
    assert {message.content_type for message in handled} == {"application/json"}
    assert await dead_letters_of(postgres_url) == {}


async def test_a_client_of_amqp_1_0_publishes_to_a_consumer_and_consumes_from_the_relay(
    postgres_url, rabbitmq_url, other_clients, tmp_path
):
    async with await aio_pika.connect(rabbitmq_url) as connection, connection.channel() as channel:
        version = connection.transport.connection.server_properties["version"]
        is_native = int(version.split(".")[0]) >= 4
        async with consuming(postgres_url, rabbitmq_url) as handled:
            queue = await channel.declare_queue(
                "ward_board.rhea", durable=True, arguments={"x-queue-type": "quorum"}
            )
            await queue.bind(EXCHANGE, "ward.admitted")
            files = Programs(other_clients, tmp_path, BROKER_URL=rabbitmq_url)
            addresses = (
                {}
                if is_native
                else {
                    "SOURCE": "/amq/queue/ward_board.rhea",
                    "TARGET": f"/exchange/{EXCHANGE}/ward.left",
                }
            )
            await publish(
                rabbitmq_url,
                Event("ward.admitted", {"bed": "b-17"}, idempotency_key="k"),
                "binary",
            )
            async with files.program(AMQP_1_0, **addresses) as program:
                await program.wait_for_line("accepted", within=STARTED)
                line = await program.wait_for_line("b-17")

                if is_native:
                    assert "ward.admitted" in line
                    await eventually(lambda: handled)
                    assert clients_of(handled) == {"rhea": 1}
                    assert isinstance(handled[0].id, UUID)
                    return
                # The plugin of older versions hands the annotation to no consumer.
                dead = await eventually(lambda: dead_letters_of(postgres_url))
                assert dead == {("no_handler", "binary"): 1}


async def test_every_driver_records_events_with_the_sql_function(
    postgres_url, other_clients, tmp_path
):
    plain = make_url(postgres_url).set(drivername="postgresql")
    url = plain.render_as_string(hide_password=False)
    files = Programs(other_clients, tmp_path, DATABASE_URL=url)
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(files.program(f"with_{name}")) for name in SQL]
        for program in started:
            assert await program.wait(within=STARTED) == 0, program.tail

    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    async with engine.connect() as connection:
        rows = (await connection.execute(sa.select(outbox))).mappings().all()
    await engine.dispose()
    assert Counter(json.loads(row["body"])["client"] for row in rows) == {
        name.partition(".")[0]: 1 for name in SQL
    }
    assert {row["type"] for row in rows} == {"ward.left"}
