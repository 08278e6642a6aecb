"""
Requests and their replies, with real processes: caller, relay, responder, and the consumer of
replies.
"""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker

import consumer.replies
import outbox
from consumer.settings import ConsumerSettings
from outbox.errors import DuplicateRequest, RequestFailed, RequestTimedOut, UnknownRequest
from outbox.reply_table import replies
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.effects import effects
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
