from dataclasses import replace
from typing import ClassVar

import pytest
from pydantic import BaseModel

from consumer import Consumer
from consumer.execution.decode import read_message
from consumer.payload_type import UNCHECKED, PayloadType
from consumer.testing import a_message
from outbox import HealthDataMessage
from outbox.encryption.content import Content
from outbox.errors import ConfigurationError, UnreadableMessage
from outbox.wire import row_codec
from outbox.wire.encrypted import PrivateText
from outbox.wire.envelope import Envelope
from tests.support.builders import LEAK_MARKER, an_event, an_upload


class Reading(BaseModel):
    event_type: ClassVar[str] = "reading.taken"

    value: int


SQL_ONLY = {"exchange": None, "content_encoding": None}


def an_envelope(body: bytes = b"{}", content_type: str = "application/json") -> Envelope:
    envelope = row_codec.from_row({**row_codec.to_row(an_event()), **SQL_ONLY})
    return replace(envelope, body=body, content_type=content_type)


def payload_of(envelope: Envelope, model=None):
    return read_message(envelope, PayloadType(model), attempt=1, redelivered=False).payload


def test_a_payload_is_read_as_the_registered_model():
    upload = an_upload()

    assert payload_of(an_envelope(upload.to_event().body), HealthDataMessage) == upload


def test_without_a_model_json_is_a_value_and_other_content_is_bytes():
    assert payload_of(an_envelope(b'{"a":[1]}')) == {"a": [1]}
    assert payload_of(an_envelope(b"{}", "application/json; charset=utf-8")) == {}
    assert payload_of(an_envelope(b"\xff", "application/avro")) == b"\xff"


def test_a_payload_that_does_not_fit_the_model_is_reported_by_field_names_only():
    body = an_upload().to_event().body.replace(b'"bucket":"uploads"', b'"bucket":7')

    with pytest.raises(UnreadableMessage) as caught:
        payload_of(an_envelope(body), HealthDataMessage)

    assert caught.value.code == "schema_unsupported"
    assert LEAK_MARKER not in str(caught.value)


def test_the_repr_of_a_message_shows_nothing_that_encryption_would_hide():
    content = Content(f'"{LEAK_MARKER}"'.encode(), LEAK_MARKER, {"source": LEAK_MARKER})
    envelope = replace(
        an_envelope(content.body),
        correlation_id=PrivateText.of(LEAK_MARKER, "digest"),
        idempotency_key=LEAK_MARKER,
        headers=content.headers,
    )
    message = read_message(envelope, UNCHECKED, attempt=1, redelivered=False)

    assert (message.correlation_id, message.headers["source"]) == (LEAK_MARKER, LEAK_MARKER)
    assert LEAK_MARKER not in f"{message!r} {envelope!r} {content!r}"
    assert repr(message.correlation_id) == "'digest'"


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "two words", "bindings": ["#"]},
        {"name": "etl", "bindings": []},
        {"name": "etl", "bindings": "health.#"},
    ],
)
def test_a_consumer_that_cannot_work_is_refused(arguments):
    with pytest.raises(ConfigurationError):
        Consumer(arguments["name"], bindings=arguments["bindings"])


def test_a_message_for_a_test_has_a_default_for_all_but_the_payload():
    message = a_message({"size": 3})

    assert message.payload == {"size": 3}
    assert (message.type, message.routing_key) == ("test.happened", "test.happened")
    assert message.idempotency_key == str(message.id)
    assert (message.attempt, message.redelivered) == (1, False)
    assert a_message(1).id != message.id


def test_a_message_for_a_test_takes_its_type_from_a_model_and_has_the_fields_that_are_given():
    message = a_message(Reading(value=1), id="their-1", attempt=2)

    assert message.type == "reading.taken"
    assert (message.id, message.idempotency_key, message.attempt) == ("their-1", "their-1", 2)
    assert a_message({"value": 1}, type=Reading).routing_key == "reading.taken"


def test_a_message_names_the_media_type_of_its_body():
    message = read_message(an_envelope(b"", "text/csv"), UNCHECKED, attempt=1, redelivered=False)

    assert message.content_type == "text/csv"
