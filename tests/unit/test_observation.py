"""
Copies in memory, and the tracer's descriptions of messages.
"""

import pytest

from outbox.errors import BrokerUnavailable
from outbox.transports.delivery import Delivery
from outbox.transports.observation import Copy, CopyBuffer
from outbox.transports.rabbitmq.observation import TRACE_EXCHANGE, to_copy
from outbox.wire.codec import WireMessage


def a_copy(body: bytes = b"") -> Copy:
    return Copy(WireMessage("events", "a", body), size=len(body), queues=[])


def a_trace(**headers) -> Delivery:
    described = {"exchange_name": "events", "routing_keys": ["a.b"], "properties": {}}
    message = WireMessage(TRACE_EXCHANGE, "publish.events", b"{}", headers=described | headers)
    return Delivery(message, tag=1, redelivered=False)


async def test_a_buffer_is_bounded_by_copies_and_by_bytes():
    buffer = CopyBuffer(most=3, most_bytes=10)

    buffer.put([a_copy() for _ in range(5)])
    assert (len(await buffer.take(9)), buffer.missed) == (3, 2)

    buffer.put([a_copy(b"1234"), a_copy(b"5678"), a_copy(b"9012")])
    assert [copy.message.body for copy in await buffer.take(9)] == [b"5678", b"9012"]
    assert buffer.missed == 3

    buffer.put([a_copy(bytes(11)), a_copy(b"1")])
    assert ([copy.size for copy in await buffer.take(9)], buffer.missed) == ([1], 4)


async def test_copies_that_came_before_the_connection_was_lost_are_taken():
    buffer = CopyBuffer()
    buffer.put([a_copy()])
    buffer.fail("the connection was lost")

    assert len(await buffer.take(9)) == 1
    with pytest.raises(BrokerUnavailable, match="the connection was lost"):
        await buffer.take(9)


@pytest.mark.parametrize(
    "headers",
    [{"routing_keys": []}, {"routing_keys": None}, {"properties": None}, {"properties": "text"}],
)
def test_a_description_without_its_parts_is_no_copy(headers):
    assert to_copy(a_trace(**headers), bodies=True) is None


def test_a_delivery_that_cannot_be_decoded_is_no_copy():
    delivery = a_trace()
    delivery.decode_error = "undecodable"

    assert to_copy(delivery, bodies=True) is None


@pytest.mark.parametrize("stamp", ["soon", 10**30, -(10**30), None, b""])
def test_properties_of_another_type_are_absent(stamp):
    properties = {"timestamp": stamp, "priority": "high", "type": 7, "headers": "none"}

    copy = to_copy(a_trace(properties=properties, routed_queues=["b", "a"]), bodies=False)

    assert copy == Copy(WireMessage("events", "a.b", b""), size=2, queues=["a", "b"])
