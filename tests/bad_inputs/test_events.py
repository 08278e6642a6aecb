"""
Events that must not enter the outbox: an error names the field, and shows no value.
"""

import warnings
from collections import Counter, OrderedDict, defaultdict
from datetime import date
from decimal import Decimal
from enum import IntEnum, StrEnum
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
        error = refusal(payload=Reading.model_construct(note=[LEAK_MARKER]))

    assert LEAK_MARKER not in "".join(str(warning.message) for warning in warned)
    assert error.field == "payload.note"


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


class Name(StrEnum):
    NOTE = LEAK_MARKER


class Twin(str):
    """A string that equals no other, though its text does."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Pairs(dict[Any, Any]):
    """An object that is written with *pairs*, which are not those that it holds."""

    def __init__(self, pairs: list[tuple[Any, Any]], **held: Any) -> None:
        super().__init__(held)
        self._pairs = pairs

    def items(self) -> Any:
        return self._pairs


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (Pairs([("a", 1), ("a", 2)], a=1), "payload"),
        ({"x": [Pairs([("a", 1), (1, 2)], a=1)]}, "payload.x[0]"),
        ({"x": Pairs([("b", 1)], a=1)}, "payload.x"),
        ({"x": Pairs([("a", 1)])}, "payload.x"),
        ({"x": Pairs([("a", {1: 2})], a=1)}, "payload.x.a"),
        ({1: "a", "1": "b"}, "payload"),
        ({"readings": [{"ok": 1}, {None: 1}]}, "payload.readings[1]"),
        ({"a": ({True: 1},)}, "payload.a[0]"),
        ({1.5: LEAK_MARKER}, "payload"),
        ({IntEnum("Number", "ONE").ONE: 1}, "payload"),  # type: ignore[attr-defined]
        ({Twin("a"): 1, Twin("a"): 2}, "payload"),
        (OrderedDict({(1, 2): 3}), "payload"),
        ({b"a": 1}, "payload"),
    ],
)
def test_an_object_whose_keys_are_not_strings_is_refused_by_its_path(payload, field):
    """JSON would make strings of numbers, None and booleans, and two keys may become one."""
    assert refusal(payload=payload).field == field


def test_objects_of_classes_that_write_what_they_hold_are_accepted():
    counted = OrderedDict(a=defaultdict(int, b=1), c=Counter("d"))

    assert an_event(payload=counted).body == b'{"a":{"b":1},"c":{"d":1}}'
    assert an_event(payload=Pairs([("a", 2)], a=1)).body == b'{"a":2}'


def test_keys_of_a_class_of_strings_are_their_text():
    assert an_event(payload={Name.NOTE: 1}).body == f'{{"{LEAK_MARKER}":1}}'.encode()


@pytest.mark.parametrize("depth", [201, 900, 100_000])
def test_a_payload_that_consumers_could_not_read_for_its_depth_is_refused(depth):
    assert refusal(payload=nested(depth)).field == "payload"


def test_json_that_is_given_as_bytes_may_not_be_deeper():
    body = b"[" * 201 + b"]" * 201

    assert refusal(payload=body, content_type="application/json").field == "payload"
    assert an_event(payload=body, content_type="application/octet-stream").body == body


def test_a_payload_may_be_two_hundred_levels_deep():
    assert an_event(payload=nested(200)).body.startswith(b"[" * 200)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/fhir+json; fhirVersion=4.0",
        'application/json; charset="UTF-8"',
        "application/json ; charset=utf-8",
        "Application/JSON",
        "text/json",
        "application/vnd.acme.v2+json",
    ],
)
@pytest.mark.parametrize("payload", [{"a": 1}, b'{"a":1}'])
def test_json_may_have_any_name_that_json_has(content_type, payload):
    event = an_event(payload=payload, content_type=content_type)

    assert (event.content_type, event.body) == (content_type, b'{"a":1}')


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/related; type="application/dicom"; boundary=x',
        "x-application/hl7-v2+er7",
        'text/plain; title="a \\"b\\"; c"',
        "image/svg+xml",
        "a/b;",
    ],
)
def test_bytes_may_have_any_media_type(content_type):
    assert an_event(payload=b"x", content_type=content_type).content_type == content_type


@pytest.mark.parametrize(
    "content_type",
    [
        "json",
        "a/b c",
        "a/b; x",
        "a/b; x = y",
        'a/b; x="y',
        "a/b\n",
        "a /b",
        "/b",
        "a/é",
        "a/" + "b" * 128,
        "a/b; x=" + "y" * 255,
        "a/b" + "; " * 100 + "\n",
        LEAK_MARKER,
        7,
    ],
)
def test_a_content_type_that_is_no_media_type_is_refused(content_type):
    assert refusal(payload=b"x", content_type=content_type).field == "content_type"


@pytest.mark.parametrize(
    "content_type", ["application/avro", "text/plain", "application/json; charset=utf-16", 7]
)
def test_a_value_is_published_as_json_in_utf_8_alone(content_type):
    assert refusal(payload={"a": 1}, content_type=content_type).field == "content_type"
