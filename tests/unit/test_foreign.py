"""
Messages of AMQP 1.0, as RabbitMQ 4.0 and 4.3 hand them to clients of AMQP 0-9-1.
"""

import string
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.errors import UnreadableMessage
from outbox.transports.delivery import Delivery
from outbox.wire import codec, foreign
from outbox.wire.cloudevents import CORE, PREFIXES, REQUIRED
from outbox.wire.codec import WireMessage

STRING, LONG_STRING = b"\x00Sw\xa1\x05hello", b"\x00Sw\xb1\x00\x00\x00\x05hello"
BYTES = b"\x00Sw\xa0\x02{}"
MAP = b"\x00Sw\xd1\x00\x00\x00\t\x00\x00\x00\x02\xa1\x01aU\x01"
SEQUENCE = b"\x00Sv\xd0\x00\x00\x00\x08\x00\x00\x00\x02U\x01U\x02"
EVENT = {f"cloudEvents:{name}": "a.b" for name in REQUIRED} | {"cloudEvents:specversion": "1.0"}


def a_message(body: bytes = b"{}", **changes: Any) -> WireMessage:
    message = WireMessage("main", "a.b", body, "m-1", "a.b", content_type="text/plain")
    return replace(message, **changes)


def read(message: WireMessage) -> Any:
    return codec.from_wire(foreign.read(message))


@pytest.mark.parametrize(
    ("sent", "identity"),
    [
        ("urn:uuid:00000000-0000-0000-0000-000000000001", UUID(int=1)),
        ("42", "42"),
        ("text-id", "text-id"),
    ],
)
def test_an_id_of_any_type_of_amqp_1_0_is_kept(sent, identity):
    assert read(a_message(message_id=sent)).id == identity


@pytest.mark.parametrize("raw", [b"\x01\xff", bytearray(b"\x01\xff")])
def test_an_id_of_bytes_is_its_hexadecimal_digits(raw):
    message = a_message(message_id=None, headers={"x-message-id": raw})

    assert read(message).id == "01ff"


@pytest.mark.parametrize("raw", [b"", 5, "text", None])
def test_a_header_that_is_no_id_of_bytes_is_none(raw):
    with pytest.raises(UnreadableMessage) as caught:
        read(a_message(message_id=None, headers={"x-message-id": raw}))

    assert caught.value.code == "no_identity"


@pytest.mark.parametrize(
    ("body", "text"), [(STRING, b"hello"), (LONG_STRING, b"hello"), (BYTES, b"{}")]
)
def test_a_value_of_text_or_bytes_is_the_body_of_a_cloudevent(body, text):
    envelope = read(a_message(body, type="amqp-1.0", headers=EVENT))

    assert (envelope.type, envelope.body) == ("a.b", text)


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (a_message(STRING, type="amqp-1.0"), "type"),
        *(
            (a_message(body, type="amqp-1.0", headers=EVENT), "amqp-value")
            for body in (MAP, SEQUENCE, b"", STRING[:3], STRING[:-1], STRING + b"x", b"hello")
        ),
    ],
)
def test_any_other_value_is_malformed(message, detail):
    with pytest.raises(UnreadableMessage) as caught:
        read(message)

    assert (caught.value.code, caught.value.detail) == ("malformed", detail)


def test_a_message_of_ours_is_left_alone():
    message = a_message(headers={"x-outbox-version": 1, "traceparent": "0"})
    delivery = Delivery(message, 1, redelivered=False)

    delivery.read_foreign()

    assert delivery.message is message


values = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.datetimes()
names = st.sampled_from([prefix + name for prefix in PREFIXES for name in sorted(CORE)])
bodies = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=8).map(lambda end: b"\x00Sw" + end),
    st.text(string.printable + "\ud800é", max_size=40).map(
        lambda text: text.encode(errors="surrogatepass")
    ),
    st.sampled_from(
        [b'{"data": "\\ud800"}', b'{"data": {"a": 1e999}}', b'\xef\xbb\xbf{"data":1}']
    ),
)


@given(
    headers=st.dictionaries(names | st.text(max_size=5), values, max_size=12),
    body=bodies,
    content_type=st.none()
    | st.text(max_size=5)
    | st.sampled_from(["application/cloudevents+json", "application/cloudevents; a=b", "a/b"]),
    type_=st.sampled_from(["amqp-1.0", "a.b", None]),
    message_id=st.none() | st.text(max_size=5),
)
def test_any_message_is_read_or_has_a_reason(headers, body, content_type, type_, message_id):
    message = a_message(
        body, headers=headers, content_type=content_type, type=type_, message_id=message_id
    )
    delivery = Delivery(message, 1, redelivered=False)

    delivery.read_foreign()

    if delivery.decode_error is None:
        with suppress(UnreadableMessage):
            codec.from_wire(delivery.message, delivery.headers)
