from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

import consumer.telemetry
import relay.telemetry
from consumer.message_copies import retry_copy
from consumer.verdict import DONE, DUPLICATE, DeadLetter, TryAgain
from outbox.event import Event
from outbox.health_data import HEALTH_DATA_UPLOADED
from outbox.runtime.error_summary import summary_of
from outbox.runtime.record_types import HEALTH_CONNECT, RecordTypes
from outbox.settings import SharedSettings
from outbox.wire.codec import WireMessage
from relay.row import Row
from relay.verdict import Delete, Retry
from tests.support.builders import an_upload

STEPS = "health.processing.stepsrecord.normal"
UNKNOWN = "health.processing.jane_doe.normal"


def a_delivered(routing_key: str) -> WireMessage:
    return WireMessage("exchange", routing_key, b"{}", "id", HEALTH_DATA_UPLOADED)


def a_claimed(routing_key: object) -> Row:
    row = dict.fromkeys(["id", "attempts"], 1) | {"routing_key": routing_key}
    return Row(1, None, 0, None, row)  # type: ignore[arg-type]


@pytest.mark.parametrize("priority", ["low", "normal", "high"])
@pytest.mark.parametrize("record_type", ["BloodGlucoseRecord", "Vo2MaxRecord"])
def test_the_record_type_of_an_upload_is_a_label(record_type, priority):
    event: Event = an_upload(record_type=record_type, processing_priority=priority).to_event()

    assert RecordTypes().label(event.routing_key) == record_type


@pytest.mark.parametrize(
    ("routing_key", "label"),
    [
        (UNKNOWN, "other"),
        ("health.processing.stepsrecord.urgent", "other"),
        ("health.processing.", "other"),
        ("payment.made", ""),
        ("StepsRecord", ""),
        (b"health.processing.stepsrecord.normal", ""),
        (["unhashable"], ""),
        (None, ""),
    ],
)
def test_a_routing_key_of_any_publisher_never_becomes_a_label(routing_key, label):
    assert RecordTypes().label(routing_key) == label


def test_configured_record_types_replace_those_of_health_connect():
    labels = RecordTypes(["LabRecord"])

    assert labels.label("health.processing.labrecord.high") == "LabRecord"
    assert labels.label(STEPS) == "other"
    assert len(set(HEALTH_CONNECT)) == len(HEALTH_CONNECT)


@pytest.mark.parametrize("value", ["Steps Record", "a.b", "x" * 65, "1abc"])
def test_a_record_type_that_no_upload_can_have_is_refused(value):
    with pytest.raises(ValidationError, match="record_types"):
        SharedSettings(record_types=value)


def test_a_consumer_counts_each_record_type_also_that_of_a_copy():
    registry = CollectorRegistry()
    telemetry = consumer.telemetry.Telemetry(
        registry, source="etl", queue="q", known=[HEALTH_DATA_UPLOADED]
    )
    steps, other = a_delivered(STEPS), a_delivered(UNKNOWN)
    copy = retry_copy(steps, queue="q", attempt=1)

    error = ValueError()
    telemetry.handler_failed(copy, error, summary=summary_of(error), attempt=2, message=None)
    telemetry.handled(
        HEALTH_DATA_UPLOADED,
        dict.fromkeys("ab", timedelta(seconds=1)),
        {"a": STEPS, "b": STEPS},
    )
    telemetry.settled(
        [
            (steps, DONE),
            (other, DONE),
            (copy, DUPLICATE),
            (copy, TryAgain(1, timedelta(seconds=30))),
            (copy, DeadLetter(4, "handler_failed")),
        ]
    )

    def value(name: str, record_type: str = "StepsRecord", **more: str) -> float | None:
        labels = {"type": HEALTH_DATA_UPLOADED, "record_type": record_type, **more}
        return registry.get_sample_value(name, labels)

    assert value("mq_messages_processed_total", queue="q", status="success") == 1
    assert value("mq_messages_processed_total", "other", queue="q", status="success") == 1
    assert value("mq_processing_duration_seconds_count", queue="q") == 2
    assert value("mq_retry_attempts_total") == 1
    assert value("mq_retry_scheduled_total", delay_seconds="30") == 1
    assert value("mq_duplicate_messages_total") == 1
    assert value("mq_permanent_failures_total", reason="rejected_by_handler") == 1


def test_a_relay_counts_each_record_type_and_any_row():
    registry = CollectorRegistry()
    telemetry = relay.telemetry.Telemetry(registry, exchange="x", record_types=["StepsRecord"])

    telemetry.settled(
        [
            *(Delete(a_claimed(key)) for key in (STEPS, STEPS, UNKNOWN, "a.b", b"a.b")),
            Retry(a_claimed(STEPS), timedelta(seconds=1), "unroutable"),
        ]
    )

    def value(record_type: str, status: str = "success") -> float | None:
        labels = {"exchange": "x", "record_type": record_type, "status": status}
        return registry.get_sample_value("mq_messages_published_total", labels)

    assert [value("StepsRecord"), value("other"), value("")] == [2, 1, 2]
    assert value("StepsRecord", "unroutable") == 1
