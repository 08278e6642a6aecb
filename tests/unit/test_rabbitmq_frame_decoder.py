"""
Legal properties are decoded as by pamqp; illegal ones are a decode error of the delivery.
"""

import struct
from datetime import UTC, datetime
from typing import Any

import pamqp.decode
import pamqp.frame
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq.frame_decoder import MALFORMED, read_deliver, read_header
from outbox.transports.rabbitmq.table_decoder import MAX_DEPTH
from outbox.wire.codec import WireMessage
from tests.support.frames import deliver, nested_tables, short, table

FLAGS = Basic.Properties.flags
ENTRY = short(b"source") + b"S" + table(b"phone")

short_text = st.text(max_size=60)
moments = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
).map(lambda moment: moment.replace(microsecond=0))
plain_values = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.none()
    | st.floats(width=32, allow_nan=False)
    | moments
    | st.decimals(0, 2**20, places=2)
    | st.binary().map(bytearray)
)
values = st.recursive(
    plain_values,
    lambda nested: st.lists(nested, max_size=3) | st.dictionaries(short_text, nested, max_size=3),
    max_leaves=8,
)
properties = st.builds(
    Basic.Properties,
    content_type=st.none() | short_text,
    content_encoding=st.none() | short_text,
    headers=st.none() | st.dictionaries(short_text, values, max_size=5),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | short_text,
    reply_to=st.none() | short_text,
    expiration=st.none() | short_text,
    message_id=st.none() | short_text,
    timestamp=st.none() | moments,
    message_type=st.none() | short_text,
    user_id=st.none() | short_text,
    app_id=st.none() | short_text,
)


def a_delivery() -> Delivery:
    return Delivery(WireMessage(exchange="", routing_key="work", body=b""), 1, redelivered=False)


def read(flags: int, data: bytes) -> Delivery:
    delivery = a_delivery()
    read_header(struct.pack(">HHQH", Basic.frame_id, 0, 7, flags) + data, delivery)
    return delivery


def payload(frame: bytes) -> bytes:
    return frame[7:-1]


@given(properties, st.integers(0, 2**40))
def test_legal_properties_are_those_that_pamqp_reads(properties, size):
    frame = pamqp.frame.marshal(ContentHeader(body_size=size, properties=properties), 1)
    theirs: Any = pamqp.frame.unmarshal(frame)[2].properties
    delivery = a_delivery()

    assert read_header(payload(frame), delivery) == size

    message = delivery.message
    assert delivery.decode_error is None
    assert dict(message.headers) == (theirs.headers or {})
    for name in ("content_type", "content_encoding", "priority", "correlation_id", "message_id"):
        assert getattr(message, name) == getattr(theirs, name)
    assert message.type == theirs.message_type
    assert message.timestamp == theirs.timestamp


@given(
    short_text,
    st.from_regex(r"[a-zA-Z0-9_.:-]{0,127}", fullmatch=True),
    st.integers(0, 2**63 - 1),
    st.booleans(),
)
def test_the_frame_of_a_delivery_is_read_as_pamqp_reads_it(routing_key, exchange, tag, again):
    frame = pamqp.frame.marshal(Basic.Deliver("ctag", tag, again, exchange, routing_key), 1)

    delivery = read_deliver(payload(frame))

    message = WireMessage(exchange=exchange, routing_key=routing_key, body=b"")
    assert delivery == Delivery(message, tag, redelivered=again)


@given(st.integers(0, 0xFFFF), st.binary(max_size=200))
@example(0xFFFF, b"")
def test_no_bytes_make_the_frame_decoder_raise(flags, data):
    delivery = read(flags, data)

    assert delivery.decode_error in {None, MALFORMED}


@given(properties, st.data())
def test_one_wrong_byte_does_not_make_the_frame_decoder_raise(properties, data):
    frame = bytearray(
        payload(pamqp.frame.marshal(ContentHeader(body_size=1, properties=properties), 1))
    )
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] = data.draw(st.integers(0, 255))

    read_header(bytes(frame), a_delivery())


@given(st.data())
def test_a_truncated_frame_of_a_delivery_decodes_to_none(data):
    whole = payload(deliver(1, 5, exchange="events", routing_key="health.uploaded"))
    length = data.draw(st.integers(0, len(whole) - 1))

    assert read_deliver(whole[:length]) is None


@given(st.binary(max_size=60))
def test_no_bytes_in_place_of_a_delivery_make_the_decoder_raise(data):
    read_deliver(data)


@pytest.mark.parametrize(
    ("flags", "data"),
    [
        (FLAGS["content_type"], short(b"\xff\xfe")),
        (FLAGS["message_id"], short(b"\xff")),
        (FLAGS["message_id"], b"\xffshort"),
        (FLAGS["timestamp"], struct.pack(">Q", 2**63 - 1)),
        (FLAGS["timestamp"], struct.pack(">Q", 1_764_000_000_000_000)),
        (FLAGS["timestamp"], b"\0\0"),
        (FLAGS["headers"], table(short(b"\xff\xfe") + b"t\x01")),
        (FLAGS["headers"], table(ENTRY + short(b"x") + b"Z???")),
        (FLAGS["headers"], table(ENTRY + short(b"x"))),
        (FLAGS["headers"], table(ENTRY + short(b"x") + b"S\xff\xff\xff\xff")),
        (FLAGS["headers"], table(ENTRY + short(b"x") + b"A\xff\xff\xff\xff")),
        (FLAGS["headers"], table(short(b"x") + b"T" + struct.pack(">Q", 2**63 - 1))),
        (FLAGS["headers"], b"\xff\xff\xff\xff" + ENTRY),
        (FLAGS["headers"], nested_tables(MAX_DEPTH + 1)),
        (FLAGS["headers"], nested_tables(1500)),
        (FLAGS["headers"], table(short(b"x") + b"A" + table((b"A" + table(b"")) * 3 + b"l"))),
        (FLAGS["priority"], b""),
        (FLAGS["priority"] | 1, b"\x04"),
        (FLAGS["priority"], b"\x04 and more"),
    ],
)
def test_an_illegal_property_is_a_decode_error(flags, data):
    assert read(flags, data).decode_error == MALFORMED


@pytest.mark.parametrize("kind", [bytes([kind]) for kind in b"tbBsuIilLfdDSATFVx\0"])
def test_each_type_of_a_value_is_read_as_pamqp_reads_it(kind):
    zeros = {b"V": 0, b"\0": 0, b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"D": 5}
    size = zeros.get(kind, 8 if kind in b"lLdT" else 4)
    value = b"\0" * (size - 1) + b"\1" if size and kind not in b"SAFx" else bytes(size)
    data = table(short(b"before") + kind + value + ENTRY)

    delivery = read(FLAGS["headers"], data)

    assert delivery.decode_error is None
    assert delivery.message.headers == pamqp.decode.field_table(data)[1]


def test_tables_up_to_the_depth_limit_have_no_decode_error():
    assert read(FLAGS["headers"], nested_tables(MAX_DEPTH - 1)).decode_error is None


def test_readable_properties_beside_a_decode_error_are_kept():
    unreadable = table(ENTRY + short(b"x") + b"Z???")
    flags = FLAGS["content_type"] | FLAGS["headers"] | FLAGS["message_id"]

    message = read(flags, short(b"\xff") + unreadable + short(b"id")).message

    assert message.content_type is None
    assert message.headers == {"source": "phone"}
    assert message.message_id == "id"


def test_a_header_value_that_is_not_utf_8_is_bytes():
    delivery = read(FLAGS["headers"], table(short(b"x") + b"S" + table(b"\xff")))

    assert delivery.decode_error is None
    assert delivery.message.headers == {"x": b"\xff"}


def test_a_routing_key_that_is_not_utf_8_is_a_decode_error():
    frame = payload(deliver(1, 5, routing_key="key"))

    delivery = read_deliver(frame.replace(b"key", b"k\xffy"))

    assert delivery is not None
    assert delivery.decode_error == MALFORMED
    assert delivery.message.routing_key == "k\ufffdy"
    assert delivery.tag == 5


def test_a_truncated_header_is_a_decode_error():
    delivery = a_delivery()

    assert read_header(b"\0\x3c\0\0", delivery) == 0
    assert delivery.decode_error == MALFORMED
