"""
Every bad input that reaches a consumer as a message, between healthy ones, on a real broker.

Healthy messages flow around each, the bad one is in `dead_letters` with its reason within seconds,
and no part of it is in a log or in a column other than those of the message itself.
"""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import aiormq
import pytest
import sqlalchemy as sa

from outbox.tables import dead_letters
from outbox.wire.codec import WireMessage
from tests.support.builders import LEAK_MARKER, an_event, an_upload, on_the_wire
from tests.support.consumer_deployment import EXCHANGE, ConsumerDeployment
from tests.support.decompression_bomb import gzip_bomb
from tests.support.eventually import eventually
from tests.support.frames import short, table
from tests.support.malformed_messages import (
    FLAGS,
    MALFORMED_PROPERTIES,
    publish_as_it_is,
    publish_raw,
    raw_channel,
)

ISOLATED_WITHIN = 20.0
"""Seconds for one of them; the goal is 5, and the actual time is recorded."""

BODY = f'{{"note": "{LEAK_MARKER}"}}'.encode()
QUEUE = "health_data_processing.effects"
LONG_AGO = datetime.now(UTC) - timedelta(days=31)


def a_message(**changes: Any) -> WireMessage:
    event = an_event(payload={"note": LEAK_MARKER})
    return replace(on_the_wire(event, exchange=EXCHANGE), **changes)


def an_upload_message(**changes: Any) -> WireMessage:
    event = an_upload(content_hash=uuid4().hex * 2).to_event()
    return replace(on_the_wire(event, exchange=EXCHANGE), **changes)


def with_headers(**headers: Any) -> WireMessage:
    message = a_message()
    ours = {f"x-outbox-{name.replace('_', '-')}": value for name, value in headers.items()}
    return replace(message, headers={**message.headers, **ours})


def old_and(**headers: Any) -> WireMessage:
    return with_headers(recorded_at=int(LONG_AGO.timestamp()), **headers)


GIVEN_UP: dict[str, tuple[str, WireMessage]] = {
    "an empty body": ("malformed", a_message(body=b"")),
    "no UTF-8": ("malformed", a_message(body=b'"\xff' + BODY)),
    "no JSON": ("malformed", a_message(body=BODY[:-1])),
    "a key twice": ("malformed", a_message(body=b'{"a":1,"a":2}')),
    "10,000 arrays in each other": ("malformed", a_message(body=b"[" * 10_000 + b"]" * 10_000)),
    "17 MiB": ("malformed", a_message(body=BODY + b" " * 17 * 2**20)),
    "no id": ("no_identity", a_message(message_id=None)),
    "an id with white space": ("no_identity", a_message(message_id=LEAK_MARKER + " ")),
    "100,000 objects in each other": (
        "malformed",
        a_message(body=b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    ),
    "an infinite number": ("malformed", a_message(body=b'{"value": 1e400}')),
    "no type": ("malformed", a_message(type=None)),
    "a type that is no words": ("malformed", a_message(type=LEAK_MARKER + " \r\n")),
    "an unknown type": ("no_handler", a_message(type="test.without.handler")),
    "an unknown type, and headers that no column takes": (
        "no_handler",
        a_message(type="test.without.handler", headers={"a\0b": "c\0d", "e": 1.5}),
    ),
    "a content type that is none": ("malformed", a_message(content_type=LEAK_MARKER)),
    "text for a model": ("malformed", an_upload_message(content_type="text/plain")),
    "an unknown encoding": ("content_encoding_unknown", a_message(content_encoding="br")),
    "ciphertext": (
        "content_encoding_unknown",
        a_message(content_encoding="aes-256-gcm", body=b"\x8f" * 64),
    ),
    "a gigabyte in gzip": (
        "decompress_limit",
        a_message(content_encoding="gzip", body=gzip_bomb(2**30)),
    ),
    "packed twice": (
        "malformed",
        a_message(content_encoding="gzip", body=gzip.compress(gzip.compress(BODY))),
    ),
    "packed in two members": (
        "malformed",
        a_message(content_encoding="gzip", body=gzip.compress(BODY) + gzip.compress(BODY)),
    ),
    "a CloudEvent without a source": (
        "cloudevent_invalid",
        a_message(headers={"ce-specversion": "1.0", "ce-id": "1", "ce-type": LEAK_MARKER}),
    ),
    "CloudEvents in a batch": (
        "cloudevent_invalid",
        a_message(content_type="application/cloudevents-batch+json", body=b"[]"),
    ),
    "a map of AMQP 1.0": ("malformed", a_message(type="amqp-1.0", body=b"\0Sw\xd1\0")),
    "version 0": ("schema_unsupported", with_headers(version=0)),
    "a version of the future": ("schema_unsupported", with_headers(version=99)),
    "a field is missing": ("schema_unsupported", an_upload_message(body=BODY)),
    "too old": ("too_old_to_dedupe", old_and()),
    "too old, with a forged replay": ("too_old_to_dedupe", old_and(replay=str(uuid4()))),
    "its handler always fails": (
        "retries_exhausted",
        a_message(type="test.fails.always", routing_key="test.fails.always"),
    ),
    "its handler is cancelled by itself": (
        "retries_exhausted",
        a_message(type="test.is.cancelled.by.itself"),
    ),
    "forged as the last attempt, and fails": (
        "retries_exhausted",
        replace(with_headers(attempt=10**9), type="test.fails.always"),
    ),
}

HANDLED: dict[str, tuple[WireMessage, dict[str, Any]]] = {
    "priority 255": (a_message(), {"priority": 255}),
    "a negative attempt": (with_headers(attempt=-1), {}),
    "an attempt that is no number": (with_headers(attempt="abc"), {}),
    "a forged replay": (with_headers(replay=str(uuid4())), {}),
    "a correlation id with a line break": (a_message(correlation_id=LEAK_MARKER + "\r\nX"), {}),
    "a charset as the encoding": (a_message(content_encoding="UTF-8"), {}),
    "JSON of another name": (
        an_upload_message(content_type="application/fhir+json; fhirVersion=4.0"),
        {},
    ),
    "no time": (replace(a_message(), timestamp=datetime.fromtimestamp(0, UTC), headers={}), {}),
    "a header that is not allowed": (replace(a_message(), headers={"ssn": LEAK_MARKER}), {}),
}

REFUSED: dict[str, tuple[int, bytes]] = {
    "delivery mode 7": (FLAGS["delivery_mode"], b"\x07"),
    "an expiration that is no number": (FLAGS["expiration"], short(b"abc")),
    "an unknown type of value": (FLAGS["headers"], table(short(b"a") + b"?" + b"\x01")),
}


REFUSED_BY_RABBITMQ_4 = "17 MiB"
"""RabbitMQ 4 has a limit of 16 MiB for a message, unless `max_message_size` is raised."""

ACCEPTED_BY_RABBITMQ_4 = {"delivery mode 7"}
"""RabbitMQ 4 stores the message, and delivers it as persistent."""


@dataclass
class Stream:
    """A stream of healthy messages."""

    deployment: ConsumerDeployment
    channel: Any
    sent: list[str]

    async def flow(self, count: int) -> None:
        for _ in range(count):
            message = a_message()
            self.sent.append(message.message_id or "")
            await publish_as_it_is(self.channel, message)

    async def isolates(
        self, name: str, poison: Callable[[], Awaitable[None]]
    ) -> tuple[Any, float]:
        """The dead letter of *poison*, published amid healthy messages, and after how long."""
        clock = asyncio.get_running_loop().time
        known = await self._newest()

        async def newer() -> int | None:
            newest = await self._newest()
            return newest if newest > known else None

        await self.flow(3)
        began = clock()
        await poison()
        await self.flow(3)
        found = await eventually(newer, within=ISOLATED_WITHIN, message=name)
        took = clock() - began
        async with self.deployment.engine.connect() as connection:
            rows = await connection.execute(
                sa.select(dead_letters).where(dead_letters.c.id == found)
            )
            return rows.mappings().one(), took

    async def _newest(self) -> int:
        """The last dead letter; some are large, so no other is read."""
        async with self.deployment.engine.connect() as connection:
            return await connection.scalar(sa.select(sa.func.max(dead_letters.c.id))) or 0


@pytest.fixture
async def deployment(postgres_url, rabbitmq_url, tmp_path):
    urls = (postgres_url, rabbitmq_url)
    async with ConsumerDeployment(
        urls, tmp_path, app="effects", MQ_MAX_RETRIES="1", MQ_UNSUPPORTED_WAIT_SECONDS="0"
    ) as deployment:
        yield deployment


@pytest.fixture
async def stream(deployment, rabbitmq_url):
    await deployment.consumer()
    async with raw_channel(rabbitmq_url) as channel:
        yield Stream(deployment, channel, [])


async def test_each_poison_message_is_dead_lettered_within_seconds_and_the_others_flow(
    stream, deployment, rabbitmq_server, rabbitmq_url, record_property
):
    overview = await rabbitmq_server.http.request("GET", "overview")
    given_up = dict(GIVEN_UP)
    if int(overview["rabbitmq_version"].partition(".")[0]) >= 4:
        _, large = given_up.pop(REFUSED_BY_RABBITMQ_4)
        assert await ends_its_publisher(
            rabbitmq_url, lambda channel, **_: publish_as_it_is(channel, large)
        )
    took: dict[str, float] = {}
    reasons: dict[str, str] = {}
    letters: list[Any] = []
    expected = {name: reason for name, (reason, _) in given_up.items()}
    poisons: dict[str, Callable[[], Awaitable[None]]] = {
        name: partial(publish_as_it_is, stream.channel, message)
        for name, (_, message) in given_up.items()
    }
    for name, (flags, properties) in MALFORMED_PROPERTIES.items():
        expected[name] = "malformed"
        poisons[name] = partial(publish_raw, stream.channel, BODY, flags, properties, queue=QUEUE)

    for name, poison in poisons.items():
        letter, took[name] = await stream.isolates(name, poison)
        letters.append(letter)
        reasons[name] = letter["reason"]

    record_property("isolated_within_seconds", {name: round(it, 3) for name, it in took.items()})
    assert reasons == expected
    assert len(await deployment.rows(dead_letters)) == len(expected)
    bodies = [row["body"] for row in letters]
    assert bodies[: len(given_up)] == [message.body for _, message in given_up.values()]
    await deployment.applies(len(stream.sent))
    await deployment.has_nothing_waiting()
    assert sorted(map(str, await deployment.applied())) == sorted(stream.sent)
    assert max(took.values()) < ISOLATED_WITHIN
    assert "server_unavailable" not in deployment.logs()
    assert LEAK_MARKER not in deployment.logs()


async def test_an_odd_message_is_handled_once_like_its_healthy_neighbours(stream, deployment):
    odd = [message.message_id for message, _ in HANDLED.values()]

    for message, changes in HANDLED.values():
        await stream.flow(2)
        await publish_as_it_is(stream.channel, message, **changes)
    await stream.flow(2)

    await deployment.applies(len(stream.sent) + len(odd))
    await deployment.has_nothing_waiting()
    assert sorted(map(str, await deployment.applied())) == sorted([*stream.sent, *odd])
    assert await deployment.dead() == []
    assert LEAK_MARKER not in deployment.logs()


async def test_another_body_under_a_known_identity_takes_no_effect(stream, deployment):
    """The key alone identifies a message, and not its body; the first one counts."""
    first = a_message()
    second = replace(first, body=b'{"note": "another"}')

    await publish_as_it_is(stream.channel, first)
    await deployment.applies(1)
    await publish_as_it_is(stream.channel, second)
    await stream.flow(3)

    await deployment.applies(4)
    await deployment.has_nothing_waiting()
    assert sorted(map(str, await deployment.applied())) == sorted([*stream.sent, first.message_id])
    assert await deployment.dead() == []


async def ends_its_publisher(url: str, publish: Callable[..., Awaitable[None]]) -> bool:
    """Whether the broker closes the channel, or the connection, that *publish* goes over."""
    with suppress(aiormq.AMQPError, OSError, RuntimeError):
        async with raw_channel(url) as channel:
            await publish(channel, queue=QUEUE)
            await asyncio.wait({channel.closing}, timeout=10)
            return bool(channel.closing.done())
    return True


@pytest.mark.parametrize("name", REFUSED)
async def test_a_message_that_the_broker_refuses_ends_only_its_publisher(
    stream, deployment, rabbitmq_url, name
):
    flags, properties = REFUSED[name]
    await stream.flow(3)

    is_refused = await ends_its_publisher(
        rabbitmq_url, partial(publish_raw, body=BODY, flags=flags, properties=properties)
    )

    await stream.flow(3)
    await deployment.applies(6)
    if not is_refused:
        assert name in ACCEPTED_BY_RABBITMQ_4
        await deployment.wait_for_dead_letters(1)  # it has no id
    await deployment.has_nothing_waiting()
    assert "server_unavailable" not in deployment.logs()
    assert len(await deployment.dead()) == (not is_refused)


async def test_ten_thousand_copies_of_one_message_have_one_effect(
    postgres_url, rabbitmq_url, tmp_path
):
    """Eight transactions at a time are at its one row in the dedup store."""
    event = an_event(type="test.in.batches", payload={"note": LEAK_MARKER})
    message = on_the_wire(event, exchange=EXCHANGE)
    async with ConsumerDeployment((postgres_url, rabbitmq_url), tmp_path) as deployment:
        await deployment.consumer()
        async with raw_channel(rabbitmq_url) as channel:
            healthy = Stream(deployment, channel, [])
            await healthy.flow(3)
            await publish_as_it_is(channel, message, times=10_000)
            await healthy.flow(3)
            await deployment.applies(7, within=60)

        await deployment.has_nothing_waiting()
        applied = map(str, await deployment.applied())
        assert sorted(applied) == sorted([*healthy.sent, str(event.id)])
        assert await deployment.dead() == []
        assert all(
            word not in deployment.logs() for word in ("failed", "unavailable", LEAK_MARKER)
        )
