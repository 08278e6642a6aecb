"""
Decoding a delivery: to an attempt, or to the reason why it is dead-lettered.
"""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
import zstandard
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer import message_copies
from consumer.execution.decode import Attempt, decode_delivery
from consumer.handler import Handler
from consumer.payload_type import PayloadType
from consumer.telemetry import Telemetry
from consumer.verdict import FILTERED, DeadLetter, TryAgain, Verdict, Wait
from outbox import HealthDataMessage
from outbox.errors import UnreadableMessage
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage
from outbox.wire.encrypted import ENCODING
from tests.support.builders import an_event, an_upload, on_the_wire

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
RETENTION = timedelta(days=30)
ANY = Handler("test.happened")
UPLOADS = Handler("health.data.uploaded", payload_type=PayloadType(HealthDataMessage))


def a_message(**changes: Any) -> WireMessage:
    return replace(on_the_wire(an_event(), exchange="main", created_at=NOON), **changes)


def an_upload_message(**changes: Any) -> WireMessage:
    uploaded = on_the_wire(an_upload().to_event(), exchange="main", created_at=NOON)
    return replace(uploaded, **changes)


def opened(
    message: WireMessage, handler: Handler | None = ANY, *, decode_error: str | None = None
) -> Attempt | Verdict:
    delivery = Delivery(message, 1, redelivered=True, decode_error=decode_error)
    return decode_delivery(delivery, handler, now=NOON, oldest=NOON - RETENTION)


def test_a_decoded_message_becomes_an_attempt_with_the_handlers_arguments():
    attempt = opened(a_message(headers={**a_message().headers, "x-outbox-attempt": 2}))

    assert isinstance(attempt, Attempt)
    assert (attempt.number, attempt.message.attempt, attempt.message.redelivered) == (3, 3, True)
    assert attempt.message.payload == {"number": 1}
    assert attempt.key == attempt.envelope.idempotency_key == attempt.message.idempotency_key


def test_a_body_of_bytes_does_not_fit_a_model():
    message = an_upload_message(content_type="text/plain")

    assert opened(message, UPLOADS) == DeadLetter(1, "malformed")


def test_a_message_without_a_handler_is_dead_lettered_unless_it_is_unreadable():
    assert opened(a_message(), None) == DeadLetter(1, "no_handler")
    assert opened(a_message(message_id=None), None) == DeadLetter(1, "no_identity")


def test_a_message_with_a_decode_error_is_dead_lettered():
    assert opened(a_message(), decode_error="malformed") == DeadLetter(1, "malformed")


def test_a_dead_letter_counts_the_attempts_before_it():
    message = a_message(headers={"x-outbox-attempt": 2}, body=b"{")

    assert opened(message) == DeadLetter(3, "malformed")


def test_a_message_older_than_the_dedup_retention_is_dead_lettered():
    """Its dedup row, if it had one, is purged by then."""
    just = on_the_wire(an_event(), exchange="main", created_at=NOON - RETENTION)
    older = NOON - RETENTION - timedelta(seconds=1)

    assert isinstance(opened(just), Attempt)
    assert opened(on_the_wire(an_event(), exchange="main", created_at=older)) == DeadLetter(
        1, "too_old_to_dedupe"
    )


def test_a_handler_gets_only_messages_that_pass_its_filter():
    picky = Handler("test.happened", filter=lambda message: message.payload == {"number": 1})

    assert isinstance(opened(a_message(), picky), Attempt)
    assert opened(a_message(body=b'{"number": 2}'), picky) is FILTERED


def test_a_filter_is_called_only_for_readable_messages():
    def wanted(_message: object) -> bool:
        raise AssertionError

    assert opened(a_message(body=b"{"), Handler("test.happened", filter=wanted)) == DeadLetter(
        1, "malformed"
    )


@pytest.mark.parametrize(
    ("early", "becomes"),
    [
        (timedelta(0), Attempt),
        (timedelta(milliseconds=1), Wait(timedelta(milliseconds=1))),
        (timedelta(seconds=4), Wait(timedelta(seconds=4))),
        (timedelta(seconds=5), TryAgain(2, timedelta(seconds=5), failed=False)),
        (timedelta(days=2), TryAgain(2, timedelta(days=2), failed=False)),
    ],
    ids=str,
)
def test_a_message_that_comes_too_early_waits_and_counts_no_attempt(early, becomes):
    copy = message_copies.retry_copy(a_message(), queue="q", attempt=2, not_before=NOON + early)

    found = opened(copy)

    assert isinstance(found, Attempt) if becomes is Attempt else found == becomes


@pytest.mark.parametrize("year", [2030, 9000])
def test_an_unreasonable_not_before_is_ignored(year):
    copy = message_copies.retry_copy(
        a_message(), queue="q", attempt=2, not_before=NOON.replace(year=year)
    )

    assert isinstance(opened(copy), Attempt)


QUARTER = timedelta(minutes=15)


def waiting(message: WireMessage, *, since: datetime | None = None) -> Attempt | Verdict:
    delivery = Delivery(message_copies.waiting_since(message, since), 1, redelivered=False)
    return decode_delivery(
        delivery, None, now=NOON, oldest=NOON - RETENTION, unsupported_wait=QUARTER
    )


@pytest.mark.parametrize("changes", [{}, {"headers": {"x-outbox-version": 2}}])
def test_a_message_that_a_later_version_may_handle_waits_for_it_and_then_is_given_up(changes):
    message = a_message(**changes)
    code = "schema_unsupported" if changes else "no_handler"
    nearly = NOON - QUARTER + timedelta(seconds=3)

    for since, delay in ((None, 5), (NOON + QUARTER, 5), (NOON - QUARTER / 2, 5), (nearly, 3)):
        began = min(since or NOON, NOON)
        assert waiting(message, since=since) == TryAgain(
            0, timedelta(seconds=delay), failed=False, unsupported_since=began
        )
    assert waiting(message, since=NOON - QUARTER) == DeadLetter(1, code)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"message_id": None}, "no_identity"),
        ({"headers": {"x-outbox-version": 0}}, "schema_unsupported"),
        ({"headers": {"x-outbox-version": "2"}}, "schema_unsupported"),
        ({"body": b"{}", "content_encoding": "br"}, "content_encoding_unknown"),
    ],
)
def test_a_message_that_no_version_can_handle_does_not_wait(changes, code):
    assert waiting(a_message(**changes)) == DeadLetter(1, code)


def test_a_zstd_body_waits_for_a_process_that_has_the_package_and_then_is_given_up(monkeypatch):
    message = a_message(body=zstandard.compress(b"{}"), content_encoding="zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)

    assert waiting(message) == TryAgain(
        0, timedelta(seconds=5), failed=False, unsupported_since=NOON
    )
    assert waiting(message, since=NOON - QUARTER) == DeadLetter(1, "zstd_missing")


def test_the_key_that_a_waiting_message_lacks_is_logged():
    reading = Mock(decrypt=Mock(side_effect=UnreadableMessage("key_unknown", "2026-12")))
    delivery = Delivery(a_message(content_encoding=ENCODING), 1, redelivered=False)
    waits = decode_delivery(
        delivery,
        None,
        now=NOON,
        oldest=NOON - RETENTION,
        unsupported_wait=QUARTER,
        reading=reading,
    )
    assert isinstance(waits, TryAgain)

    with capture_logs() as lines:
        Telemetry(CollectorRegistry(), source="etl", queue="q", known=()).unsupported(
            delivery.message, waits.unsupported_because, waits.unsupported_detail
        )

    assert [(line["reason"], line["detail"]) for line in lines] == [("key_unknown", "2026-12")]


def test_a_message_that_has_a_handler_again_has_waited_for_no_time():
    """Otherwise an old process that gets it later would give it up at once."""
    waited = message_copies.waiting_since(a_message(), NOON)

    kept = message_copies.retry_copy(waited, queue="q", attempt=0)
    failed = message_copies.retry_copy(waited, queue="q", attempt=1, failed=True)
    replayed = message_copies.replay_copy(waited, queue="q", run=UUID(int=1))

    headers = [Delivery(each, 1, redelivered=False).headers for each in (kept, failed, replayed)]
    assert [each.unsupported_since for each in headers] == [NOON, None, None]
