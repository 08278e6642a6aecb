"""
Which errors of the client library mean a lost connection to RabbitMQ.
"""

import asyncio
from typing import Any

import aio_pika
import aiormq
import pytest
from aiormq.exceptions import ChannelInvalidStateError
from pamqp.commands import Basic
from yarl import URL

from outbox.errors import BrokerUnavailable
from outbox.transports.base import NoCounter
from outbox.transports.rabbitmq.connection import (
    CONNECT_SECONDS,
    LEAST_CONNECT_SECONDS,
    connect,
    connection_errors,
)
from outbox.transports.rabbitmq.subscription import reason_of_end


@pytest.mark.parametrize(
    "error", [OSError(), TimeoutError(), ChannelInvalidStateError(), RuntimeError(), Exception()]
)
def test_errors_of_the_connection_mean_that_the_broker_is_unavailable(error):
    with pytest.raises(BrokerUnavailable), connection_errors():
        raise error


@pytest.mark.parametrize("error", [TypeError(), KeyError(), AssertionError()])
def test_errors_of_the_code_are_raised_as_they_are(error):
    with pytest.raises(type(error)), connection_errors():
        raise error


@pytest.mark.parametrize(
    ("nodes", "first"),
    [(1, CONNECT_SECONDS), (4, CONNECT_SECONDS / 4), (9, LEAST_CONNECT_SECONDS)],
)
async def test_time_that_a_node_does_not_use_is_left_to_those_after_it(monkeypatch, nodes, first):
    timeouts = []

    async def refuse(_url: URL, *, timeout: float, **_others: Any) -> None:  # noqa: ASYNC109
        timeouts.append(timeout)
        raise ConnectionRefusedError

    monkeypatch.setattr(aio_pika, "connect", refuse)
    with pytest.raises(BrokerUnavailable):
        await connect([URL("amqp://node/")] * nodes, name="test", connections=NoCounter())

    assert len(timeouts) == nodes
    assert (timeouts[0], timeouts[-1]) == pytest.approx((first, CONNECT_SECONDS), abs=0.5)


async def test_a_connection_that_failed_is_closed_so_its_finalizer_starts_no_task():
    made = []

    class Refused(aio_pika.Connection):
        async def connect(self, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
            made.append(self)
            raise ConnectionRefusedError

    with pytest.raises(BrokerUnavailable):
        await connect(
            [URL("amqp://node/")] * 2, name="test", connections=NoCounter(), kind=Refused
        )

    assert [connection.is_closed for connection in made] == [True, True]


async def test_a_channel_that_the_broker_closes_for_its_consumer_timeout_says_so():
    closing = asyncio.get_running_loop().create_future()
    closing.set_exception(
        aiormq.exceptions.ChannelPreconditionFailed(
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out."
        )
    )

    assert "consumer_timeout" in reason_of_end(closing)
    assert "consumer_timeout" in reason_of_end(Basic.Cancel("tag"))
    assert reason_of_end(object()) == "the connection was lost"
