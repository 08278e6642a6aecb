"""
Models, and messages of other publishers, through a real broker to a handler and its database.
"""

import gzip
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from consumer.storage.tables import processed_messages
from outbox import Event
from outbox.tables import dead_letters
from outbox.transports.rabbitmq.table_decoder import read_table
from outbox.wire.codec import WireMessage
from tests.support.builders import on_the_wire
from tests.support.consumer_deployment import EXCHANGE, SOON, broker
from tests.support.eventually import eventually
from tests.support.frames import short, table
from tests.support.malformed_messages import FLAGS, publish_raw, raw_channel
from tests.support.running_consumer import running

QUEUE = "health_data_processing.etl"
BODY = b'{"effectiveDateTime": "2026-01-02T03:04:05Z", "amount": 1234567890123456789.250}'


class Reading(BaseModel):
    """A model with an alias, digits and strictness."""

    model_config = ConfigDict(strict=True, extra="forbid")
    at: datetime = Field(alias="effectiveDateTime")
    amount: Decimal


READING = Reading(
    effectiveDateTime=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    amount=Decimal("1234567890123456789.250"),
)


@dataclass
class Etl:
    """A running consumer, and the messages that its handlers got."""

    url: str
    engine: Any
    received: dict[str, Message[Any]]

    async def gets(self, message_id: str) -> Message[Any]:
        await eventually(lambda: message_id in self.received)
        return self.received[message_id]

    async def dead(self) -> list[Any]:
        async with self.engine.connect() as connection:
            return list((await connection.execute(sa.select(dead_letters))).mappings())


@asynccontextmanager
async def handling(database_url: str, broker_url: str) -> AsyncIterator[Etl]:
    received: dict[str, Message[Any]] = {}
    etl = Consumer("etl", bindings=["#"])

    @etl.on("reading.taken", model=Reading)
    async def read(message: Message[Reading], _session: AsyncSession) -> None:
        received[str(message.id)] = message

    @etl.on("test.happened")
    async def happened(message: Message[Any], _session: AsyncSession) -> None:
        received[str(message.id)] = message
        if message.attempt == 1 and message.headers.get("fails"):
            raise RuntimeError

    settings = {"retry_delays": [1], "allowed_headers": ["fails"]}
    async with running(etl, database_url, broker_url, **settings) as engine:
        yield Etl(broker_url, engine, received)


async def test_a_model_arrives_as_it_was_over_each_broker(
    database_url, rabbitmq_url, embedded_broker_url
):
    for broker_url in (rabbitmq_url, embedded_broker_url):
        event = Event("reading.taken", READING)
        async with handling(database_url, broker_url) as etl:
            async with broker(broker_url).publisher() as publisher:
                await publisher.publish([on_the_wire(event, exchange=EXCHANGE)], within=SOON)
            message = await etl.gets(str(event.id))

            assert message.payload == READING
            assert str(message.payload.amount) == "1234567890123456789.250"
            assert await etl.dead() == []


FOREIGN: dict[str, dict[str, Any]] = {
    "Celery": {"content_encoding": "utf-8", "content_type": "application/json"},
    "Spring": {"content_encoding": "UTF-8", "content_type": "application/json"},
    "kombu": {"content_encoding": "binary", "content_type": "text/json"},
    "no type": {},
    "FHIR": {"content_type": "application/fhir+json; fhirVersion=4.0"},
    "quoted": {"content_type": 'application/json ; charset="utf-8"', "correlation_id": "a b"},
    "packed": {"content_encoding": "GZIP", "content_type": "Application/JSON"},
    "early": {"timestamp": 0, "headers": {"x-outbox-occurred-at": "0001-01-01T00:00:00"}},
}


async def test_messages_of_other_publishers_are_handled_once(postgres_url, rabbitmq_url):
    async with (
        handling(postgres_url, rabbitmq_url) as etl,
        await aio_pika.connect(rabbitmq_url) as connection,
        connection.channel() as channel,
    ):
        for name, properties in FOREIGN.items():
            body = gzip.compress(BODY) if name == "packed" else BODY
            message = aio_pika.Message(
                body,
                type="reading.taken",
                message_id=f"msg-{name.replace(' ', '-')}",
                **properties,
            )
            for _ in range(2):
                await channel.default_exchange.publish(message, QUEUE)
        for name in FOREIGN:
            message_id = f"msg-{name.replace(' ', '-')}"
            received = await etl.gets(message_id)

            assert received.id == received.idempotency_key == message_id
            assert received.payload == READING
            assert received.correlation_id is None

        async def recorded() -> bool:
            async with etl.engine.connect() as database:
                keys = await database.scalars(sa.select(processed_messages.c.idempotency_key))
                return len(keys.all()) == len(FOREIGN)

        await eventually(recorded)
        assert await etl.dead() == []


def cloudevents() -> dict[str, WireMessage]:
    """In both modes, with an extension for which the first attempt fails."""
    attributes = {"specversion": "1.0", "source": "/lab", "type": "test.happened", "fails": "yes"}
    headers = {f"cloudEvents:{name}": value for name, value in attributes.items()}
    body = json.dumps({**attributes, "id": "structured", "data": {"a": 1}}).encode()
    return {
        "binary": WireMessage(
            *("", QUEUE, b'{"a": 1}', "made-by-the-library"),
            content_type="application/json",
            headers={**headers, "cloudEvents:id": "binary"},
        ),
        "structured": WireMessage("", QUEUE, body, content_type="application/cloudevents+json"),
        "invalid": WireMessage("", QUEUE, b"{}", headers=headers),
    }


async def test_a_cloudevent_is_retried_deduplicated_and_dead_lettered_like_any_message(
    postgres_url, rabbitmq_url, sqlite_url, embedded_broker_url
):
    await _handles_cloudevents(postgres_url, rabbitmq_url)
    await _handles_cloudevents(sqlite_url, embedded_broker_url)


async def _handles_cloudevents(database_url: str, broker_url: str) -> None:
    async with handling(database_url, broker_url) as etl:
        async with broker(broker_url).publisher() as publisher:
            for message in cloudevents().values():
                for _ in range(2):
                    await publisher.publish([message], within=SOON)
        for name in ("binary", "structured"):
            await etl.gets(name)
            await eventually(lambda name=name: etl.received[name].attempt == 2)

            assert etl.received[name].payload == {"a": 1}
            assert etl.received[name].headers == {"source": "/lab", "fails": "yes"}

        async def recorded() -> set[str] | None:
            async with etl.engine.connect() as database:
                keys = await database.scalars(sa.select(processed_messages.c.idempotency_key))
            return found if len(found := set(keys)) == 2 else None

        async def dead() -> list[Any] | None:
            return found if len(found := await etl.dead()) == 2 else None

        assert await eventually(recorded) == {"/lab|binary", "/lab|structured"}
        assert [row["reason"] for row in await eventually(dead)] == ["cloudevent_invalid"] * 2


async def test_an_empty_routing_key_of_a_fanout_exchange_is_kept(postgres_url, rabbitmq_url):
    async with (
        handling(postgres_url, rabbitmq_url) as etl,
        await aio_pika.connect(rabbitmq_url) as connection,
        connection.channel() as channel,
    ):
        exchange = await channel.declare_exchange("fan", aio_pika.ExchangeType.FANOUT)
        await (await channel.get_queue(QUEUE)).bind(exchange)
        await exchange.publish(aio_pika.Message(BODY, type="reading.taken", message_id="m-1"), "")

        assert (await etl.gets("m-1")).routing_key == ""
        assert await etl.dead() == []


def entry(name: bytes, kind: bytes, value: bytes) -> bytes:
    return short(name) + kind + value


def sized(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


async def test_a_message_with_headers_of_every_type_is_handled_and_retried(
    postgres_url, rabbitmq_url
):
    message_id = str(uuid4())
    headers = {
        b"fails": (b"S", sized(b"yes")),
        b"d": (b"D", struct.pack(">Bi", 1, -125)),
        b"f": (b"d", struct.pack(">d", -1.5)),
        b"t": (b"T", struct.pack(">Q", 1_767_322_800)),
        b"v": (b"V", b""),
        b"x": (b"x", sized(b"\xff\x00")),
        b"n": (b"F", sized(entry(b"a", b"I", struct.pack(">i", -7)))),
        b"a": (b"A", sized(b"t\x01" + b"S" + sized(b"b"))),
        b"l": (b"l", struct.pack(">q", -(2**40))),
    }
    raw = table(b"".join(entry(name, *value) for name, value in headers.items()))
    flags = FLAGS["content_type"] | FLAGS["headers"] | FLAGS["message_id"] | FLAGS["message_type"]
    properties = short(b"application/json") + raw + short(message_id.encode())
    async with handling(postgres_url, rabbitmq_url) as etl, raw_channel(rabbitmq_url) as channel:
        await publish_raw(channel, b"{}", flags, properties + short(b"test.happened"), queue=QUEUE)
        await etl.gets(message_id)
        await eventually(lambda: etl.received[message_id].attempt == 2)

        assert etl.received[message_id].headers == {"fails": "yes", "l": -(2**40)}
        assert await etl.dead() == []


@pytest.mark.parametrize("scaled", [-125, -1, 0, 125, 2**31 - 1, -(2**31)])
def test_a_decimal_header_is_signed(scaled):
    raw = entry(b"d", b"D", struct.pack(">Bi", 1, scaled))

    assert read_table(raw, 0, len(raw)) == ({"d": Decimal(scaled) / 10}, True)
