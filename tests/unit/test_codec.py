import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.errors import UnreadableMessage
from outbox.event import Priority
from outbox.wire import codec, row_codec
from outbox.wire.codec import WireMessage
from outbox.wire.envelope import Envelope
from tests.support.builders import AN_INSTANT, an_event

SQL_ONLY = {"exchange": None, "content_encoding": None}

LANE = "0123456789abcdef" * 2
FIRST, LAST = datetime(1970, 1, 3), datetime(9998, 1, 1)  # noqa: DTZ001


def whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


keys = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=50
)
envelopes = st.builds(
    Envelope,
    id=st.uuids(),
    type=st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,3}", fullmatch=True),
    body=st.binary(max_size=200),
    exchange=keys,
    routing_key=keys,
    idempotency_key=keys,
    correlation_id=st.none() | keys,
    priority=st.sampled_from(Priority),
    headers=st.dictionaries(
        st.sampled_from(["source", "traceparent", "schema-version"]),
        keys | st.integers(-(2**63), 2**63 - 1) | st.booleans(),
    ),
    content_type=st.just("application/json"),
    content_encoding=st.none(),
    occurred_at=st.datetimes(FIRST, LAST, timezones=st.just(UTC)),
    recorded_at=st.datetimes(FIRST, LAST, timezones=st.just(UTC)).map(whole_seconds),
    lane=st.none() | st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
)


def a_row(**changes):
    return {**row_codec.to_row(an_event()), **SQL_ONLY, **changes}


def a_message(**changes) -> WireMessage:
    return replace(codec.to_wire(row_codec.from_row(a_row()), exchange="main"), **changes)


@given(envelopes)
def test_a_message_is_read_from_the_wire_as_it_was_written(envelope):
    message = codec.to_wire(envelope, exchange="main", lane=envelope.lane)

    ordered = envelope.lane is not None
    priority = Priority.NORMAL if ordered else envelope.priority
    assert codec.from_wire(message) == replace(envelope, priority=priority)


def test_the_relay_reads_the_event_that_the_producer_recorded():
    event = an_event(ordering_key="k", correlation_id="c", headers={"source": "s"})

    envelope = row_codec.from_row({**row_codec.to_row(event), **SQL_ONLY})

    for name in ("id", "type", "body", "routing_key", "ordering_key", "headers", "occurred_at"):
        assert getattr(envelope, name) == getattr(event, name)


def test_the_wire_format_is_version_1():
    """Golden: consumers in other languages read this. Never change it, only add to it."""
    event = an_event(
        type="health.data.uploaded",
        payload={"bucket": "b"},
        id=UUID("01890000-0000-7000-8000-000000000001"),
        routing_key="health.processing.x.high",
        ordering_key="never-on-the-wire",
        idempotency_key="i",
        correlation_id="c",
        priority="high",
        occurred_at=AN_INSTANT,
        headers={"source": "s"},
    )

    assert codec.to_wire(
        row_codec.from_row({**row_codec.to_row(event), **SQL_ONLY}), exchange="main"
    ) == (
        WireMessage(
            exchange="main",
            routing_key="health.processing.x.high",
            body=b'{"bucket":"b"}',
            message_id="01890000-0000-7000-8000-000000000001",
            type="health.data.uploaded",
            correlation_id="c",
            timestamp=AN_INSTANT,
            content_type="application/json",
            content_encoding=None,
            priority=9,
            headers={
                "source": "s",
                "x-outbox-version": 1,
                "x-outbox-idempotency-key": "i",
                "x-outbox-occurred-at": "2026-01-02T03:04:05.678901+00:00",
            },
        )
    )


def test_version_1_has_headers_for_the_lane_and_the_time_of_recording():
    """Golden, too."""
    row = a_row(ordering_key="never-on-the-wire", created_at=AN_INSTANT)
    plain = codec.to_wire(row_codec.from_row(a_row()), exchange="main").headers

    message = codec.to_wire(row_codec.from_row(row), exchange="main", lane=LANE)

    assert {name: message.headers[name] for name in message.headers.keys() - plain.keys()} == {
        "x-outbox-lane": LANE,
        "x-outbox-recorded-at": 1_767_323_045,
    }
    assert "never-on-the-wire" not in repr(message)


@pytest.mark.parametrize(
    "value",
    [None, "", LANE[1:], LANE + "0", LANE.upper(), f"{LANE}\n", 7, True, b"0" * 32, [LANE]],
)
def test_an_invalid_lane_header_is_ignored(value):
    assert codec.from_wire(a_message(headers={"x-outbox-lane": value})).lane is None


@pytest.mark.parametrize("value", [None, "1767323045", -1, 10**12, 10**30, True, 1.5, [1]])
@pytest.mark.parametrize("timestamp", [None, AN_INSTANT])
def test_without_a_good_header_a_message_was_recorded_when_its_timestamp_says(value, timestamp):
    headers = {"x-outbox-recorded-at": value}

    envelope = codec.from_wire(a_message(headers=headers, timestamp=timestamp))

    assert envelope.recorded_at == timestamp


def test_a_timestamp_without_a_time_zone_is_in_utc():
    message = a_message(headers={}, timestamp=AN_INSTANT.replace(tzinfo=None))

    assert codec.from_wire(message).recorded_at == AN_INSTANT


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("type", "with space"),
        ("routing_key", ""),
        ("routing_key", "k" * 256),
        ("idempotency_key", "line\nbreak"),
        ("headers", {"not-allowed-here": 1}),
        ("headers", ["not", "an", "object"]),
        ("headers", {"source": {"nested": 1}}),
        ("headers", "no JSON"),
        ("headers", '["not", "an", "object"]'),
        ("headers", '"{}"'),
        ("headers", '{"source": 1.5}'),
        ("headers", f'{{"source": {"9" * 5_000}}}'),
        ("headers", "[" * 100_000),
        ("headers", None),
        ("event_id", None),
        ("type", ["unhashable"]),
        ("content_type", "nonsense"),
        ("reply_to", "a queue"),
        ("reply_to", b"queue"),
        ("expires_at", LAST),
        ("expires_at", FIRST),
        ("expires_at", LAST.replace(year=9999, tzinfo=UTC)),
        ("expires_at", "infinity"),
    ],
)
def test_a_row_written_by_hand_is_checked_again(column, value):
    with pytest.raises(UnreadableMessage, match=column) as caught:
        row_codec.from_row(a_row(**{column: value}))

    assert caught.value.code == "malformed"


@pytest.mark.parametrize("text", ["{}", " { } ", '{"source": "s", "schema-version": 2}'])
def test_the_headers_of_a_row_may_be_the_text_of_an_object(text):
    assert row_codec.from_row(a_row(headers=text)).headers == json.loads(text)


def test_a_compressed_body_is_read():
    message = a_message(content_encoding="gzip", body=gzip.compress(b'{"a":1}'))

    assert codec.from_wire(message).body == b'{"a":1}'


def test_a_message_of_another_publisher_is_deduplicated_by_its_id():
    message = a_message(headers={"theirs": 1.5, "x-theirs": "x"}, priority=None, timestamp=None)

    envelope = codec.from_wire(message)

    assert envelope.idempotency_key == str(envelope.id)
    assert envelope.priority is Priority.NORMAL
    assert envelope.headers == {}


def test_messages_of_a_key_have_one_priority_or_a_broker_would_change_their_order():
    row = {**row_codec.to_row(an_event(priority="high", ordering_key="k")), **SQL_ONLY}

    assert codec.to_wire(row_codec.from_row(row), exchange="main", lane=LANE).priority == 4
    assert codec.to_wire(row_codec.from_row(row), exchange="main").priority == 9
