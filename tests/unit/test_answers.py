"""
What handlers return, as replies; and the deadline of a request, as consumers and relays see it.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from pydantic import BaseModel

import outbox
from consumer import Consumer, Message
from consumer.execution.answers import answers_of, answers_of_list
from consumer.execution.decode import Attempt, decode_delivery
from consumer.handler import Handler
from consumer.message_copies import replay_copy, retry_copy
from consumer.verdict import EXPIRED, NO_TIME_LEFT, DeadLetter, TryAgain, after_failure
from outbox import Event, producer_encryption
from outbox.backoff import RetrySchedule
from outbox.errors import InvalidEvent
from outbox.transports.delivery import Delivery
from outbox.wire import row_message
from outbox.wire.headers import EXPIRES_HEADER, parse
from outbox.wire.row_codec import to_row
from tests.support.builders import AN_INSTANT, an_event, on_the_wire
from tests.support.encryption import SubjectsInMemory, a_ring

SECOND = timedelta(seconds=1)
ANSWERING = Handler("test.happened", answers=True)
SILENT = Handler("test.happened")


def a_request(**changes):
    message = on_the_wire(
        an_event(), exchange="main", reply_to="caller.replies", expires_at=AN_INSTANT + SECOND
    )
    return replace(message, **changes)


def an_attempt(message=None, handler=SILENT) -> Attempt:
    delivery = Delivery(message or a_request(), 1, redelivered=False)
    found = decode_delivery(delivery, handler, now=AN_INSTANT, oldest=AN_INSTANT - SECOND)
    assert isinstance(found, Attempt)
    return found


def test_a_request_says_where_its_reply_goes_and_until_when():
    attempt = an_attempt()

    assert attempt.message.reply_to == "caller.replies"
    assert attempt.message.expires_at == AN_INSTANT + SECOND


def test_a_reply_goes_to_the_queue_of_the_request_with_its_correlation_id():
    request = a_request(correlation_id="visit-7")

    [reply] = answers_of(ANSWERING, [an_attempt(request)], [{"total": 1}])
    row = reply.row()

    assert (row["exchange"], row["routing_key"]) == ("", "caller.replies")
    assert (row["type"], row["correlation_id"]) == ("outbox.reply", "visit-7")
    assert row["body"] == b'{"total":1}'


def test_without_a_correlation_id_the_reply_has_the_id_of_the_request():
    request = a_request(correlation_id=None)

    [reply] = answers_of(SILENT, [an_attempt(request)], [1])

    assert reply.correlation_id == request.message_id


def test_an_event_gives_its_payload_headers_and_compression():
    event = Event("scan.made", b"\0", content_type="image/png", headers={"source": "ct"})

    [reply] = answers_of(SILENT, [an_attempt()], [event])

    assert (reply.event.type, reply.event.body) == ("outbox.reply", b"\0")
    assert (reply.event.content_type, dict(reply.event.headers)) == ("image/png", {"source": "ct"})


@pytest.mark.parametrize(
    ("handler", "result", "replies"),
    [(ANSWERING, None, 1), (SILENT, None, 0), (SILENT, 0, 1), (ANSWERING, False, 1)],
)
def test_none_is_a_reply_of_handlers_that_say_that_they_return_something(handler, result, replies):
    assert len(answers_of(handler, [an_attempt()], [result])) == replies


def test_a_value_for_a_message_that_is_no_request_is_dropped():
    attempt = an_attempt(on_the_wire(an_event(), exchange="main"))

    assert answers_of(ANSWERING, [attempt], [1]) == []
    assert answers_of_list(ANSWERING, [attempt], 7) == []


@pytest.mark.parametrize("result", [1, "ab", [1], {"a": 1}])
def test_a_handler_of_lists_returns_one_reply_for_each_message(result):
    attempts = [an_attempt(), an_attempt()]

    assert len(answers_of_list(SILENT, attempts, [1, 2])) == 2
    assert len(answers_of_list(ANSWERING, attempts, None)) == 2
    with pytest.raises(InvalidEvent, match=r"^reply: must be a list"):
        answers_of_list(SILENT, attempts, result)


@pytest.mark.parametrize(
    "changes",
    [
        {"reply_to": "a queue"},
        {"reply_to": ""},
        {"reply_to": "q" * 256},
        {"correlation_id": "two words"},
    ],
)
def test_a_request_that_no_reply_can_reach_is_handled_without_one(changes):
    attempt = an_attempt(a_request(**changes))

    assert answers_of(ANSWERING, [attempt], [1]) == []


def test_the_annotation_says_whether_a_handler_answers():
    consumer = Consumer("c", bindings=["#"])

    @consumer.on("a.number")
    async def number(message: Message[int], session) -> int | None: ...

    @consumer.on("a.text")
    async def text(message: Message[str], session) -> None: ...

    @consumer.on("an.object")
    async def an_object(message: Message[object], session): ...

    assert [each.answers for each in consumer.handlers.values()] == [True, False, False]


def test_a_handler_that_answers_is_not_called_once_the_deadline_has_passed():
    delivery = Delivery(a_request(), 1, redelivered=False)
    late = {"now": AN_INSTANT + SECOND, "oldest": AN_INSTANT - SECOND}

    assert decode_delivery(delivery, ANSWERING, **late) is EXPIRED
    assert isinstance(decode_delivery(delivery, SILENT, **late), Attempt)


@pytest.mark.parametrize("value", [7, "", "soon", "2026-01-02T03:04:05", None])
def test_a_deadline_that_is_no_time_is_none(value):
    assert parse({EXPIRES_HEADER: value}).expires_at is None


def test_a_retry_keeps_the_deadline_and_a_replay_has_none():
    retried = retry_copy(a_request(), queue="q.retry", attempt=1)
    replayed = replay_copy(retried, queue="q", run=an_event().id)

    assert EXPIRES_HEADER in retried.headers
    assert EXPIRES_HEADER not in replayed.headers
    assert retried.reply_to == replayed.reply_to == "caller.replies"


def test_a_retry_that_would_come_too_late_is_none():
    policy = RetrySchedule([SECOND], 3)

    def after(left):
        return after_failure(ValueError(), 1, policy, jitter=0.0, left=left)

    assert after(2 * SECOND) == after(None) == TryAgain(1, SECOND)
    assert after(SECOND) == DeadLetter(1, NO_TIME_LEFT)


def test_a_relay_publishes_queue_and_deadline_of_a_request():
    row = {
        **to_row(an_event(correlation_id="visit-7")),
        "headers": "{}",
        "exchange": None,
        "content_encoding": None,
        "created_at": datetime.now(UTC),
        "reply_to": "caller.replies",
        "expires_at": AN_INSTANT,
    }

    message = row_message.to_message(row, exchange="main", lane_of=lambda _key: None)

    assert message.reply_to == "caller.replies"
    assert parse(message.headers).expires_at == AN_INSTANT


class Scored(BaseModel):
    """A reply whose class says which field names the person."""

    event_type: ClassVar[str] = "patient.scored"
    event_subject: ClassVar[str] = "patient"
    patient: str


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_reply_belongs_to_the_person_whom_its_model_names(monkeypatch, wrapped):
    monkeypatch.setattr(producer_encryption, "_choice", None)
    outbox.use_encryption(a_ring(), subjects=SubjectsInMemory())
    model = Scored(patient="patient-17")

    [reply] = answers_of(ANSWERING, [an_attempt()], [Event.of(model) if wrapped else model])

    assert reply.event.subject == "patient-17"
