import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest

from outbox import HealthDataMessage, InvalidEvent
from tests.support.builders import AN_INSTANT, LEAK_MARKER, an_upload


def test_the_idempotency_key_is_derived_from_type_user_content_and_time():
    upload = an_upload(user_id="u", content_hash="a" * 64)
    parts = f"health.data.uploaded:u:{'a' * 64}:{AN_INSTANT.isoformat()}"

    assert upload.idempotency_key == hashlib.sha256(parts.encode()).hexdigest()


def test_the_same_upload_announced_twice_has_one_idempotency_key():
    elsewhere = AN_INSTANT.astimezone(timezone(timedelta(hours=5)))

    first, second = an_upload(), an_upload(upload_timestamp_utc=elsewhere)

    assert first.idempotency_key == second.idempotency_key
    assert first.message_id != second.message_id


def test_an_idempotency_key_of_the_event_is_kept():
    assert an_upload(idempotency_key="mine").idempotency_key == "mine"


def test_the_event_is_routed_by_record_type_and_priority():
    event = an_upload(record_type="HeartRateRecord", processing_priority="high").to_event()

    assert event.routing_key == "health.processing.heartraterecord.high"
    assert event.priority == "high"
    assert event.type == "health.data.uploaded"


def test_the_body_is_the_whole_message_and_reads_back():
    upload = an_upload()

    assert HealthDataMessage.model_validate_json(upload.to_event().body) == upload


def test_the_user_is_in_the_body_alone():
    event = an_upload().to_event()
    outside = (event.routing_key, event.idempotency_key, event.headers, event.ordering_key)

    assert LEAK_MARKER.encode() in event.body
    assert LEAK_MARKER not in str(outside)
    assert LEAK_MARKER not in repr(event)


def test_times_are_kept_in_utc():
    upload = an_upload(upload_timestamp_utc="2026-01-02T03:04:05+02:00")

    assert upload.upload_timestamp_utc == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert upload.upload_timestamp_utc.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("bucket", ""),
        ("key", "k" * 1025),
        ("upload_timestamp_utc", "2026-01-02T03:04:05"),
        ("upload_timestamp_utc", LEAK_MARKER),
        ("upload_timestamp_utc", "0001-01-01T00:00:00+14:00"),
        ("record_type", "two words"),
        ("record_type", "a.b"),
        ("content_hash", LEAK_MARKER),
        ("processing_priority", LEAK_MARKER),
        ("file_size_bytes", -1),
        ("record_count", -1),
        ("message_id", LEAK_MARKER),
        ("surprise", LEAK_MARKER),
    ],
)
def test_an_invalid_upload_names_the_field_and_never_its_value(field, value):
    with pytest.raises(InvalidEvent) as caught:
        an_upload(**{field: value})

    assert caught.value.field == field
    assert LEAK_MARKER not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_character_of_an_invalid_value_is_shown():
    with pytest.raises(InvalidEvent, match=r"message_id: Input should be a valid UUID$"):
        an_upload(message_id="ÿ")
