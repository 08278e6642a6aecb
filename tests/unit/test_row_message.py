"""
A row becomes the same message with an envelope and without.
"""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from outbox.errors import UnreadableMessage
from outbox.payload import MAX_BODY_BYTES
from outbox.wire import row_message
from outbox.wire.codec import WireMessage
from tests.support.builders import AN_INSTANT, TRACEPARENT

TRACED = f'{{"traceparent": "{TRACEPARENT}"}}'
EAST = timezone(timedelta(hours=9))

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([1.5, b"bytes", ("a", "tuple"), ["unhashable"], {"a": 1}, {}]),
    st.sampled_from(["", " ", "a b", "a\n", "a\x7f", "a\u00a0b", "\ud800", "{}", "[]", " {}"]),
    st.sampled_from(["k" * 255, "k" * 256, "ü" * 127, "ü" * 128, "t" * 129, "a..b", "a.b"]),
    st.sampled_from(["high", "low", "urgent", "text/plain", "text plain", '{"source": "s"}']),
    st.sampled_from([b"x" * MAX_BODY_BYTES, b"x" * (MAX_BODY_BYTES + 1), bytearray(b"x")]),
    st.sampled_from(
        [
            AN_INSTANT.replace(tzinfo=None),
            AN_INSTANT.astimezone(EAST),
            AN_INSTANT.replace(microsecond=0),
            datetime(1970, 1, 1, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(1970, 1, 2, tzinfo=UTC),
            datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(9999, 1, 1, tzinfo=UTC),
            datetime(1600, 1, 1, tzinfo=UTC),
        ]
    ),
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
)


def a_row(**changes: object) -> dict[str, object]:
    return {
        "id": 1,
        "event_id": UUID("01890000-0000-7000-8000-000000000001"),
        "type": "health.data.uploaded",
        "exchange": None,
        "routing_key": "health.processing",
        "ordering_key": None,
        "idempotency_key": "i",
        "correlation_id": None,
        "priority": "normal",
        "headers": "{}",
        "content_type": "application/json",
        "content_encoding": None,
        "body": b"{}",
        "occurred_at": AN_INSTANT,
        "created_at": AN_INSTANT + timedelta(seconds=3),
        **changes,
    }


def lane_of(ordering_key: str | None) -> str | None:
    return None if ordering_key is None else f"lane of {ordering_key}"


def result_of(convert, row) -> WireMessage | tuple[str, str | None] | type[Exception]:
    try:
        return convert(row, exchange="main", lane_of=lane_of)
    except UnreadableMessage as error:
        return error.code, error.detail
    except Exception as error:  # noqa: BLE001 - it has to be the same
        return type(error)


def exact(result: object) -> object:
    """*result* and its headers in their order; 1 and true are not the same."""
    if isinstance(result, WireMessage):
        return repr(result), result.body, list(result.headers.items())
    return result


@given(st.dictionaries(st.sampled_from([*a_row()]), odd_values, max_size=3))
@example({})
@example({"ordering_key": "k", "priority": "high"})
@example({"correlation_id": "c", "exchange": "other", "content_encoding": "gzip"})
@example({"correlation_id": "no key"})
@example({"ordering_key": ""})
@example({"idempotency_key": "ü"})
@example({"exchange": "\ud800"})
@example({"exchange": 1})
@example({"priority": None})
@example({"headers": '{"source": "s"}'})
@example({"headers": TRACED})
@example({"headers": TRACED, "ordering_key": "k"})
@example({"headers": TRACED.replace("-01", "-0A")})
@example({"headers": TRACED.replace("}", ', "source": "s"}')})
@example({"headers": {"traceparent": TRACEPARENT}})
def test_both_ways_make_the_same_message_and_refuse_the_same_rows(changes):
    row = a_row(**changes)

    assert exact(result_of(row_message.to_message, row)) == exact(
        result_of(row_message.by_envelope, row)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ordering_key": "k"},
        {"correlation_id": "c"},
        {"exchange": "other"},
        {"priority": "high"},
        {"headers": TRACED},
    ],
)
def test_common_rows_need_no_envelope(monkeypatch, changes):
    row = a_row(**changes)
    expected = row_message.by_envelope(row, exchange="main", lane_of=lane_of)
    monkeypatch.delattr(row_message, "by_envelope")

    assert row_message.to_message(row, exchange="main", lane_of=lane_of) == expected
