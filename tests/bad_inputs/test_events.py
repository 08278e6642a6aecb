"""
Events that must not enter the outbox: an error names the field, and shows no value.
"""

import warnings
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from outbox import Event, InvalidEvent, allow_headers
from outbox.payload import MAX_BODY_BYTES
from tests.support.builders import LEAK_MARKER, an_event

LARGE = 17 * 2**20


class Reading(BaseModel):
    """A payload as a service may have it."""

    note: str
    value: Any = None


def nested(depth: int) -> Any:
    value: Any = LEAK_MARKER
    for _ in range(depth):
        value = [value]
    return value


def refusal(**changes: Any) -> InvalidEvent:
    """The error for an event with *changes*, whose text holds no value of theirs."""
    with pytest.raises(InvalidEvent) as caught:
        an_event(**changes)
    error = caught.value
    assert LEAK_MARKER not in str(error) + repr(error)
    assert error.__cause__ is None
    return error


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"reading": {"values": {LEAK_MARKER}}}, "payload.reading.values"),
        ({"readings": [1, {"value": Decimal("NaN")}]}, "payload.readings[1].value"),
        ({"value": float("inf")}, "payload.value"),
        ({"note": LEAK_MARKER + "\ud800"}, "payload.note"),
        ({"value": 10**5000}, "payload.value"),
        ({"value": date(2026, 1, 1)}, "payload.value"),
        (bytearray(LEAK_MARKER.encode()), "payload"),
        (Reading(note=LEAK_MARKER, value=object()), "payload.value"),
        (Reading(note=LEAK_MARKER, value=LEAK_MARKER.encode() + b"\xff"), "payload.value"),
        (Reading.model_construct(note=LEAK_MARKER + "\ud800"), "payload.note"),
    ],
    ids=[
        "set",
        "decimal",
        "infinity",
        "surrogate",
        "endless integer",
        "date",
        "bytearray",
        "object in a model",
        "bytes in a model",
        "surrogate in a model",
    ],
)
def test_a_payload_that_is_no_json_is_refused_by_its_path(payload, field):
    assert refusal(payload=payload).field == field


def test_a_model_that_holds_another_type_than_it_says_shows_no_value():
    """Pydantic warns of such a field, with its value."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        event = an_event(payload=Reading.model_construct(note=[LEAK_MARKER]))

    assert LEAK_MARKER not in "".join(str(warning.message) for warning in warned)
    assert event.body == f'{{"note":["{LEAK_MARKER}"],"value":null}}'.encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": {"note": LEAK_MARKER * (LARGE // len(LEAK_MARKER))}},
        {
            "payload": LEAK_MARKER.encode() * (LARGE // len(LEAK_MARKER)),
            "content_type": "text/plain",
        },
    ],
    ids=["json", "bytes"],
)
def test_a_payload_of_seventeen_mebibytes_is_refused_with_the_limit(changes):
    error = refusal(**changes)

    assert error.field == "payload"
    assert str(MAX_BODY_BYTES) in error.problem


@pytest.mark.parametrize(
    "value",
    [
        UUID(int=1),
        date(2026, 1, 1),
        2**63,
        -(2**63) - 1,
        None,
        nested(50),
        {LEAK_MARKER},
        {LEAK_MARKER: 1},
        1.5,
        LEAK_MARKER.encode(),
    ],
    ids=repr,
)
def test_a_header_that_is_no_text_integer_or_boolean_is_refused_by_its_name(value):
    assert refusal(headers={"source": value}).field == "headers.source"


@pytest.mark.parametrize("headers", [None, LEAK_MARKER, [LEAK_MARKER], 7], ids=repr)
def test_headers_that_are_no_mapping_are_refused(headers):
    assert refusal(headers=headers).field == "headers"


@pytest.mark.parametrize(
    "name",
    [
        LEAK_MARKER + "a" * 200,
        "x-death",
        "x-match",
        "CC",
        "BCC",
        "cc",
        "bcc",
        "x-outbox-attempt",
        "x-outbox-" + LEAK_MARKER,
        "ssn",
        "email",
        "patient-name",
        "user_id",
        7,
        "",
    ],
)
def test_a_header_that_is_reserved_long_or_not_allowed_is_refused_unseen(name):
    """Clients truncate names of more than 128 bytes, and brokers act on some."""
    assert refusal(headers={name: "value"}).field == "headers"


@pytest.mark.parametrize(
    "name",
    [
        *("x-death", "x-match", "x-mine", "x-outbox-attempt", "CC", "cc", "BCC", "bcc"),
        *("amq-thing", "Upper", "a b", "", "a" * 65, "a" * 200),
    ],
)
def test_a_name_that_brokers_or_the_wire_format_use_cannot_be_allowed(name):
    with pytest.raises(InvalidEvent, match="headers"):
        allow_headers(name)


@pytest.mark.parametrize(
    "key", ["k" * 256, "ü" * 200, LEAK_MARKER + "\r\nX", LEAK_MARKER + "\0", " ", "\u2028", 7]
)
def test_a_routing_key_that_the_broker_or_a_log_would_misread_is_refused(key):
    assert refusal(routing_key=key).field == "routing_key"


def test_an_empty_routing_key_is_the_type():
    assert an_event(routing_key="", type="a.b").routing_key == "a.b"


@pytest.mark.parametrize(
    "event_type", ["", " ", "a b", "a..b", ".", LEAK_MARKER + "\n", 0, None, [1]]
)
def test_a_type_that_is_not_made_of_words_is_refused(event_type):
    assert refusal(type=event_type).field == "type"


@pytest.mark.parametrize(
    "content_type", [5, [LEAK_MARKER], LEAK_MARKER + "\r\n", "text"], ids=repr
)
def test_an_invalid_content_type_is_refused(content_type):
    assert refusal(payload=b"x", content_type=content_type).field == "content_type"


def test_an_event_has_no_field_for_the_user_id_of_the_broker():
    """The broker closes the channel over a `user_id` that is not the connection's user."""
    with pytest.raises(TypeError) as caught:
        Event("a", 1, user_id=LEAK_MARKER)  # type: ignore[call-arg]

    assert LEAK_MARKER not in str(caught.value)
