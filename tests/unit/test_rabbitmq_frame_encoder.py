"""
The frame encoder writes the same bytes as pamqp.
"""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pamqp.frame
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from outbox.transports.rabbitmq import frame_layout
from outbox.transports.rabbitmq.confirms import ENCODING_ERRORS
from outbox.transports.rabbitmq.frame_encoder import publish_frames
from outbox.transports.rabbitmq.frame_layout import message_frames
from outbox.transports.rabbitmq.publish_gather import properties
from outbox.wire.codec import WireMessage
from outbox.wire.headers import (
    EPOCH,
    IDEMPOTENCY_KEY_HEADER,
    OCCURRED_AT_HEADER,
    RECORDED_AT_HEADER,
    VERSION_HEADER,
)
from tests.support.builders import TRACEPARENT

BODY_MAX = 64

short_text = st.text(max_size=60)
optional_text = st.none() | short_text
integers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(
    [sign * 2**bits + step for bits in (7, 8, 15, 16, 31, 32) for sign in (-1, 1) for step in
     (-1, 0, 1)]
)  # fmt: skip
plain_values = st.booleans() | integers | st.text()
foreign_values = (
    st.none()
    | st.floats(width=32)
    | st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC))  # noqa: DTZ001
    | st.decimals(-(2**20), 2**20, places=2)
    | st.lists(plain_values, max_size=3)
    | st.dictionaries(short_text, plain_values, max_size=3)
    | st.binary().map(bytearray)
)
# pamqp counts seconds as a float, which rounds late times with a fraction up to the next second.
times = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1))  # noqa: DTZ001
late_times = st.datetimes(datetime(2100, 1, 1)).map(lambda time: time.replace(microsecond=0))  # noqa: DTZ001
zones = st.none() | st.timezones()
timestamps = st.builds(lambda time, zone: time.replace(tzinfo=zone), times | late_times, zones)
messages = st.builds(
    WireMessage,
    exchange=st.from_regex(r"[a-zA-Z0-9_.:-]{0,127}", fullmatch=True),
    routing_key=short_text,
    body=st.binary(max_size=3 * BODY_MAX),
    message_id=optional_text,
    type=optional_text,
    correlation_id=optional_text,
    timestamp=st.none() | timestamps,
    content_type=optional_text,
    content_encoding=optional_text,
    priority=st.none() | st.integers(0, 255),
    headers=st.dictionaries(short_text, plain_values | foreign_values, max_size=6),
)


COMMON_HEADERS = {
    VERSION_HEADER: 1,
    IDEMPOTENCY_KEY_HEADER: "i",
    OCCURRED_AT_HEADER: "2026-01-02T03:04:05.678901+00:00",
    RECORDED_AT_HEADER: 1_767_323_045,
}
TRACED_HEADERS = {"traceparent": TRACEPARENT, **COMMON_HEADERS}


@pytest.mark.parametrize("headers", [COMMON_HEADERS, TRACED_HEADERS], ids=["plain", "traced"])
def test_a_message_of_the_relay_fits_a_layout(monkeypatch, headers):
    message = a_message(type="t", message_id=str(UUID(int=1)), timestamp=EPOCH, headers=headers)
    monkeypatch.delattr(frame_layout, "publish_frames")

    ours = b"".join(message_frames(message, channel=1, body_max=BODY_MAX))

    assert ours == by_pamqp(message, 1)


def a_message(**changes: object) -> WireMessage:
    values = {"exchange": "events", "routing_key": "health.uploaded", "body": b"{}"}
    return WireMessage(**{**values, **changes})


def by_pamqp(message: WireMessage, channel: int) -> bytes:
    body = message.body
    pieces = [body[at : at + BODY_MAX] for at in range(0, len(body), BODY_MAX)]
    frames = [
        Basic.Publish(
            exchange=message.exchange, routing_key=message.routing_key, mandatory=True
        ),
        ContentHeader(body_size=len(body), properties=properties(message)),
        *map(ContentBody, pieces),
    ]  # fmt: skip
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


@given(messages, st.integers(1, 65_535))
@example(a_message(body=b""), 1)
@example(a_message(body=b"x" * BODY_MAX), 1)
@example(a_message(body=b"x" * (BODY_MAX + 1)), 1)
@example(a_message(headers={"ü" * 100: 1}), 1)
@example(a_message(headers={"flag": True, "one": 1, "none": None, "dec": Decimal("1.5")}), 1)
def test_the_frames_are_those_of_pamqp(message, channel):
    ours = b"".join(publish_frames(message, channel=channel, body_max=BODY_MAX))

    assert ours == by_pamqp(message, channel)


parents = st.sampled_from([TRACEPARENT, TRACEPARENT[:-1], "ü" * 55, "ü" * 27 + "t"]) | plain_values
# As the relay makes most of its messages, and nearly so.
common_messages = st.builds(
    a_message,
    body=st.binary(max_size=BODY_MAX + 1),
    message_id=st.uuids().map(str) | st.sampled_from([None, "i", "ü" * 36, "ü" * 18]),
    type=st.just("health.uploaded") | optional_text,
    correlation_id=st.none() | st.just("") | short_text,
    timestamp=st.none() | timestamps,
    content_type=st.just("application/json") | optional_text,
    content_encoding=optional_text,
    priority=st.none() | st.integers(0, 255),
    headers=st.builds(
        lambda parent, *values: {**parent, **dict(zip(COMMON_HEADERS, values, strict=True))},
        st.just({}) | st.builds(lambda text: {"traceparent": text}, parents),
        st.just(1) | st.just(True) | plain_values,
        short_text | plain_values,
        st.just("2026-01-02T03:04:05.678901+00:00") | st.just("ü" * 32) | plain_values,
        st.just(1_767_323_045) | integers | plain_values,
    ),
)


@given(common_messages | messages, st.integers(1, 65_535))
def test_the_frames_that_a_layout_gives_are_those_of_pamqp(message, channel):
    ours = b"".join(message_frames(message, channel=channel, body_max=BODY_MAX))

    assert ours == by_pamqp(message, channel)


@pytest.mark.parametrize(
    "changes",
    [
        {"routing_key": "k" * 256},
        {"routing_key": "ü" * 128},
        {"routing_key": None},
        {"exchange": "e" * 128},
        {"exchange": "no spaces?"},
        {"exchange": None},
        {"message_id": "i" * 256},
        {"message_id": "\ud800"},
        {"message_id": 7},
        {"type": "t" * 256},
        {"type": b"bytes"},
        {"correlation_id": "ü" * 128},
        {"priority": 256},
        {"priority": -1},
        {"priority": "high"},
        {"timestamp": "now"},
        {"timestamp": datetime(1900, 1, 1, tzinfo=UTC)},
        {"headers": {"large": 2**63}},
        {"headers": {"set": {1}}},
        {"headers": {"lone": "\ud800"}},
        {"headers": {"\ud800": 1}},
        {"headers": {1: 1}},
        {"headers": {1: 1, "one": 1}},
        {"headers": {"decimal": Decimal("NaN")}},
        {"body": "text"},
        {"body": None},
        *(
            {"headers": COMMON_HEADERS, "message_id": str(UUID(int=1)), "timestamp": EPOCH, **one}
            for one in (
                {"routing_key": "k" * 256},
                {"exchange": "no spaces?"},
                {"type": "t" * 256},
                {"priority": 256},
                {"timestamp": datetime(1900, 1, 1, tzinfo=UTC)},
                {"headers": {**COMMON_HEADERS, IDEMPOTENCY_KEY_HEADER: "\ud800"}},
                {"headers": {**TRACED_HEADERS, "traceparent": "\ud800" * 55}},
            )
        ),
    ],
)
def test_properties_that_pamqp_cannot_write_are_refused_in_the_same_way(changes):
    message = a_message(**changes)

    with pytest.raises((*ENCODING_ERRORS, AttributeError)):
        by_pamqp(message, 1)
    with pytest.raises(ENCODING_ERRORS):
        publish_frames(message, channel=1, body_max=BODY_MAX)
    with pytest.raises(ENCODING_ERRORS):
        message_frames(message, channel=1, body_max=BODY_MAX)


def test_a_reserved_property_with_empty_text_counts_as_absent():
    empty = a_message(message_id="", type="", correlation_id="", content_type="")

    assert publish_frames(empty, channel=1, body_max=BODY_MAX) == publish_frames(
        a_message(), channel=1, body_max=BODY_MAX
    )
