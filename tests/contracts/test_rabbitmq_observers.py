"""
Observers of RabbitMQ: why they need the tracer, who may read it, and what a lost one leaves.
"""

import aio_pika
import pytest
from yarl import URL

from outbox.errors import BrokerUnavailable, ConfigurationError
from outbox.transports.base import Outcome
from tests.contracts.test_observers import (
    NAME,
    TOPOLOGY,
    a_message,
    a_rabbitmq,
    chosen,
    copies,
    publish,
)
from tests.support.eventually import eventually


async def test_a_queue_that_is_bound_for_looking_hides_that_an_event_is_unroutable(rabbitmq_url):
    """Not a promise of ours: it is why no observer binds a queue to an exchange of events."""
    transport = a_rabbitmq(rabbitmq_url)
    await transport.declare(TOPOLOGY)
    lost = a_message("payment.made")
    assert await publish(transport, lost) == [Outcome.RETURNED]

    async with (
        await aio_pika.connect(rabbitmq_url) as connection,
        connection.channel() as channel,
    ):
        queue = await channel.declare_queue(exclusive=True, arguments={"x-max-length": 0})
        await queue.bind("events", "#")
        assert await publish(transport, lost) == [Outcome.ACKED]


async def test_nothing_is_left_of_an_observer_on_rabbitmq(
    traced_rabbitmq_url, rabbitmq_server, rabbitmq_vhost
):
    transport = a_rabbitmq(traced_rabbitmq_url)
    await transport.declare(TOPOLOGY)
    queues = rabbitmq_server.http.queues
    before = set(await queues(rabbitmq_vhost))

    async with transport.observe(chosen("#"), name=NAME) as observation:
        assert set(await queues(rabbitmq_vhost)) == before | {NAME}
        await eventually(
            lambda: rabbitmq_server.http.close_connections(rabbitmq_vhost),
            message="no connection to close",
        )
        with pytest.raises(BrokerUnavailable):
            await copies(observation, 1)

    async def is_gone() -> bool:
        return set(await queues(rabbitmq_vhost)) == before

    await eventually(is_gone, message="the queue of the observer is left")


async def test_a_broker_whose_tracer_is_off_is_refused_with_the_command(rabbitmq_url):
    transport = a_rabbitmq(rabbitmq_url)
    await transport.declare(TOPOLOGY)

    with pytest.raises(ConfigurationError, match="rabbitmqctl trace_on"):
        async with transport.observe(chosen("#"), name=NAME):
            pass


async def test_a_user_that_may_not_read_the_tracer_is_refused(
    rabbitmq_server, rabbitmq_vhost, rabbitmq_url
):
    await a_rabbitmq(rabbitmq_url).declare(TOPOLOGY)
    lent = rabbitmq_server.http.lent_user(rabbitmq_vhost, configure=".*", read="^(work.*|events)$")
    async with lent as (user, password):
        limited = a_rabbitmq(str(URL(rabbitmq_url).with_user(user).with_password(password)))
        with pytest.raises(ConfigurationError, match=r"amq\.rabbitmq\.trace: .* no permission"):
            async with limited.observe(chosen("#"), name=NAME):
                pass
