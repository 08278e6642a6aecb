"""
Requests and their replies, with real processes: caller, relay, responder, and the consumer of
replies.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import aio_pika
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker

import consumer.replies
import outbox
from consumer.settings import ConsumerSettings
from outbox import producer_encryption
from outbox.encryption import key_file_writer
from outbox.errors import RequestFailed, RequestTimedOut
from outbox.reply_table import replies
from outbox.wire.encrypted import ENCODING
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.effects import effects
from tests.support.encryption import a_ring
from tests.support.eventually import eventually
from tests.support.responder import Sum

SOON = timedelta(seconds=20)


@pytest.fixture
async def deployment(urls, tmp_path):
    async with Deployment(*urls, tmp_path) as deployment:
        yield deployment


@pytest.fixture
def sessions(deployment):
    return async_sessionmaker(deployment.engine, expire_on_commit=False)


@asynccontextmanager
async def collecting(deployment: Deployment):
    names = {name.removeprefix("MQ_").lower(): text for name, text in deployment.settings.items()}
    settings = ConsumerSettings(_env_file=None, **{**names, "retry_delays": [0.2]})
    async with consumer.replies.running(settings=settings):
        yield


async def start(deployment: Deployment) -> None:
    await deployment.relay()
    await deployment.consumer("responder", name="responder")


def asked(type_: str, payload: object = None):
    return an_event(type=type_, payload=payload, routing_key=type_)


async def test_the_value_that_a_handler_returns_is_the_reply(deployment, sessions):
    await start(deployment)
    async with collecting(deployment):
        summed = await outbox.request(
            sessions, asked("ask.sum", [1, 2, 3]), timeout=SOON, model=Sum
        )
        nothing = await outbox.request(sessions, asked("ask.nothing"), timeout=SOON)
        scan = await outbox.request(sessions, asked("ask.event"), timeout=SOON)
        outside = await outbox.request(sessions, asked("ask.outside", 41), timeout=SOON)
        listed = await asyncio.gather(
            *(
                outbox.request(sessions, asked("ask.list", number), timeout=SOON)
                for number in range(4)
            )
        )

    assert summed.payload == Sum(total=6)
    assert not summed.is_late
    assert nothing.payload is None
    assert (scan.payload, scan.content_type) == (b"\x00\x01", "image/png")
    assert outside.payload == 42
    assert [each.payload["twice"] for each in listed] == [0, 2, 4, 6]


async def test_another_process_waits_for_the_reply_to_what_was_asked(deployment, sessions):
    async with sessions() as session, session.begin():
        await session.execute(sa.insert(effects).values(event_id=UUID(int=0), attempt=0))
        request = outbox.request_in(session, asked("ask.sum", [1, 2]), timeout=SOON)
    await start(deployment)
    await deployment._start(
        "consumer", "run", "consumer.replies:replies", announces="consumer_started"
    )

    reply = await outbox.replies.wait(sessions, request.correlation_id)

    assert reply.payload == {"total": 3}
    await eventually(deployment.is_drained)


async def test_a_request_that_is_given_up_fails_with_a_reason_code(urls, tmp_path):
    async with Deployment(*urls, tmp_path, MQ_MAX_RETRIES="1") as deployment:
        sessions = async_sessionmaker(deployment.engine, expire_on_commit=False)
        await start(deployment)
        async with collecting(deployment):
            codes = [
                await code_of(outbox.request(sessions, asked(type_), timeout=SOON))
                for type_ in ("ask.rejected", "ask.failing", "ask.unanswerable", "ask.sum")
            ]

        assert codes == [
            "no_such_device",
            "retries_exhausted",
            "retries_exhausted",
            "schema_unsupported",
        ]
        assert len(await deployment.dead()) == len(codes)
        assert await deployment.applied() == []


async def test_a_request_whose_retry_would_come_too_late_fails_at_once(urls, tmp_path):
    async with Deployment(*urls, tmp_path, MQ_RETRY_DELAYS="[3600]") as deployment:
        sessions = async_sessionmaker(deployment.engine, expire_on_commit=False)
        await start(deployment)
        async with collecting(deployment):
            code = await code_of(outbox.request(sessions, asked("ask.failing"), timeout=SOON))

        assert code == "no_time_left"
        assert [row["reply_to"] for row in await deployment.dead()] == ["health.replies"]


async def code_of(request: Awaitable[object]) -> str:
    with pytest.raises(RequestFailed) as failed:
        await request
    return failed.value.code


async def test_a_request_that_no_relay_published_in_time_is_not_published(deployment, sessions):
    with pytest.raises(RequestTimedOut):
        await outbox.request(sessions, asked("ask.sum", [1]), timeout=timedelta(milliseconds=50))
    plain = an_event(type="ask.sum", payload=[1], routing_key="ask.sum", ordering_key="key")
    async with sessions() as session, session.begin():
        outbox.request_in(session, asked("ask.sum", [1]), timeout=timedelta(microseconds=1))
        outbox.add(session, plain)

    await start(deployment)
    await deployment.applies(1)

    assert await deployment.applied() == [plain.id]
    await eventually(deployment.is_drained)
    assert deployment.logs().count('"event": "request_expired"') == 2


async def test_a_handler_that_answers_is_not_called_after_the_deadline(deployment, sessions):
    """One that does not answer is called: to it the request is an event like others."""
    for name in ("responder", "auditor"):
        assert (
            await deployment.command("consumer", "topology", f"tests.support.responder:{name}")
            == 0
        )
    await deployment.relay()
    with pytest.raises(RequestTimedOut):
        await outbox.request(sessions, asked("ask.sum", [1]), timeout=timedelta(seconds=2))
    await eventually(deployment.is_drained)

    await deployment.consumer("responder", name="responder")
    await deployment.consumer("responder", name="auditor")
    await deployment.applies(1)
    await eventually(lambda: '"event": "request_expired"' in deployment.logs())

    assert [row["consumer"] for row in await deployment.rows(effects)] == ["auditor"]
    assert await deployment.dead() == []


async def test_a_reply_goes_to_a_caller_of_another_program(rabbitmq_url, postgres_url, tmp_path):
    """As with direct reply-to, whose name only the broker knows."""
    async with (
        Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment,
        await aio_pika.connect(rabbitmq_url) as connection,
        connection.channel(publisher_confirms=False) as channel,
    ):
        await start(deployment)
        queue = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        replies_seen: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
        await queue.consume(replies_seen.put, no_ack=True)
        exchange = await channel.get_exchange("health_data_exchange")
        await exchange.publish(
            aio_pika.Message(
                b"[1, 2]",
                message_id=str(uuid4()),
                type="ask.sum",
                content_type="application/json",
                correlation_id="any-7",
                reply_to="amq.rabbitmq.reply-to",
            ),
            "ask.sum",
        )

        async with asyncio.timeout(20):
            reply = await replies_seen.get()

        assert (reply.body, reply.correlation_id) == (b'{"total":3}', "any-7")
        assert reply.type == "outbox.reply"


async def test_requests_and_replies_are_encrypted_where_events_are(urls, tmp_path, monkeypatch):
    ring = tmp_path / "keys.json"
    key_file_writer.create(ring, a_ring(), source="test")
    keys = ring.as_uri()
    monkeypatch.setattr(producer_encryption, "_choice", None)
    async with Deployment(*urls, tmp_path, MQ_ENCRYPTION_KEYS=keys) as deployment:
        sessions = async_sessionmaker(deployment.engine, expire_on_commit=False)
        outbox.use_encryption(keys)
        async with collecting(deployment):
            async with sessions() as session, session.begin():
                named = outbox.request_in(
                    session,
                    an_event(**ASK, payload=[40, 2], correlation_id="visit-secret"),
                    timeout=SOON,
                )
                plain = outbox.request_in(session, an_event(**ASK, payload=[42]), timeout=SOON)
            stored = await deployment.rows(replies)
            await start(deployment)

            assert (await outbox.replies.wait(sessions, named.correlation_id)).payload == TOTAL
            assert (await outbox.replies.wait(sessions, plain.correlation_id)).payload == TOTAL

        stored += await deployment.rows(replies)
        assert "visit-secret" not in str(stored)
        assert {row["content_encoding"] for row in stored} == {None, ENCODING}


ASK = {"type": "ask.sum", "routing_key": "ask.sum"}
TOTAL = {"total": 42}
