"""
CloudEvents: attributes of other publishers become ours, and our messages survive both modes.
"""

import base64
import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from consumer.execution.decode import read_message
from consumer.message import Message
from consumer.payload_type import UNCHECKED
from outbox import Event
from outbox.errors import UnreadableMessage
from outbox.transports.delivery import Delivery
from outbox.wire import codec, foreign
from outbox.wire.cloudevents import PREFIXES
from outbox.wire.cloudevents_writer import CloudEventsWriter
from outbox.wire.codec import WireMessage
from tests.support.builders import LEAK_MARKER, an_event, on_the_wire

SOURCE = "https://clinic.example/lab"
ATTRIBUTES: dict[str, Any] = {
    "specversion": "1.0",
    "id": "A234-1234",
    "source": "/lab",
    "type": "test.happened",
    "time": "2026-01-02T03:04:05.123456Z",
}
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def binary(prefix: str = "ce-", *, body: bytes = b"{}", **changes: Any) -> WireMessage:
    attributes = {**ATTRIBUTES, **changes}
    headers = {prefix + name: value for name, value in attributes.items() if value is not None}
    return WireMessage("main", "a.b", body, content_type="application/json", headers=headers)


def structured(text: bytes | None = None, **changes: Any) -> WireMessage:
    attributes = {**ATTRIBUTES, **changes}
    body = {name: value for name, value in attributes.items() if value is not None}
    return WireMessage(
        *("main", "a.b", json.dumps(body).encode() if text is None else text),
        content_type="application/cloudevents+json; charset=UTF-8",
    )


def received(message: WireMessage) -> Message[Any]:
    """*message* as a handler gets it; raises UnreadableMessage if none does."""
    delivery = Delivery(message, 1, redelivered=False)
    delivery.read_foreign()
    if delivery.decode_error is not None:
        raise UnreadableMessage(delivery.decode_error, delivery.decode_detail)
    envelope = codec.from_wire(delivery.message, delivery.headers)
    return read_message(envelope, UNCHECKED, attempt=1, redelivered=False)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_attributes_of_a_binary_event_become_those_of_the_message(prefix):
    message = received(
        binary(
            prefix, body=b'{"a": 1.10}', subject="s", traceparent="00-1", correlationid="c", n=1.5
        )
    )

    assert (message.id, message.type, message.payload) == (
        "A234-1234",
        "test.happened",
        {"a": 1.1},
    )
    assert message.idempotency_key == "/lab|A234-1234"
    assert message.occurred_at == datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)
    assert message.correlation_id == "c"
    assert message.headers == {"source": "/lab", "subject": "s", "traceparent": "00-1"}


def test_the_attributes_count_more_than_the_properties_that_a_client_library_makes():
    made = {"message_id": "new-at-each-publish", "type": "made", "correlation_id": "made"}

    message = received(replace(binary(correlationid="c"), **made))

    assert (message.id, message.type) == ("A234-1234", "test.happened")
    assert message.correlation_id == "made"


def test_headers_of_ours_and_of_the_publisher_count_more_than_attributes():
    own = {"x-outbox-idempotency-key": "k", "source": "lab"}

    message = received(replace(binary(), headers={**binary().headers, **own}))

    assert (message.idempotency_key, message.headers) == ("k", {"source": "lab"})


@pytest.mark.parametrize(
    "time",
    [1767323045123, datetime(2026, 1, 2, 3, 4, 5, 123000, UTC), "2026-01-02t04:04:05.123+01:00"],
)
def test_a_time_may_be_milliseconds_a_timestamp_or_text_of_any_zone(time):
    assert received(binary(time=time)).occurred_at == datetime(2026, 1, 2, 3, 4, 5, 123000, UTC)


@pytest.mark.parametrize("time", ["noon", 10**18, True, "", "0001-01-01T00:00:00Z"])
def test_a_time_that_is_none_counts_as_absent(time):
    assert received(binary(time=time)).occurred_at > NOON


def test_ids_of_two_sources_never_have_one_key():
    pairs = [
        ("a", "b|c"),
        ("a|b", "c"),
        ("a|", "bc"),
        ("a", "b"),
        ("a" * 255, "b"),
        ("a" * 256, ""),
    ]
    keys = [received(binary(source=source, id=f"1{id_}")).idempotency_key for source, id_ in pairs]

    assert len(set(keys)) == len(pairs)
    assert all(len(key) <= 255 for key in keys)


@pytest.mark.parametrize(
    ("members", "payload", "content_type"),
    [
        ({"data": {"a": [1]}}, {"a": [1]}, "application/json"),
        ({"data": None}, None, "application/json"),
        ({}, None, "application/json"),
        ({"data": "text"}, "text", "application/json"),
        ({"data": "<a/>", "datacontenttype": "text/xml"}, b"<a/>", "text/xml"),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, b'{"a": 1}', "text/plain"),
        ({"datacontenttype": "text/plain"}, b"", "text/plain"),
        ({"data_base64": "/wA=", "datacontenttype": "image/png"}, b"\xff\0", "image/png"),
        ({"data_base64": "e30=", "datacontenttype": "application/json"}, {}, "application/json"),
        ({"data_base64": "/wA="}, b"\xff\0", "application/octet-stream"),
    ],
)
def test_the_data_of_a_structured_event_is_the_payload(members, payload, content_type):
    message = received(structured(**members))

    assert message.payload == payload
    assert type(message.payload) is type(payload)
    assert message.content_type == content_type
    assert (message.id, message.idempotency_key) == ("A234-1234", "/lab|A234-1234")
    assert message.headers == {"source": "/lab"}


def test_the_numbers_of_a_structured_event_keep_their_digits():
    text = structured().body[:-1] + b', "x": {"}": [1]}, "data" : {"data": 1.10} , "last": 1}'

    assert foreign.read(structured(text)).body == b'{"data": 1.10}'


def test_a_packed_structured_event_is_unpacked():
    message = replace(structured(gzip.compress(structured(data=1).body)), content_encoding="gzip")

    assert received(message).payload == 1


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        *((binary(**{name: None}), name) for name in ("specversion", "id", "source", "type")),
        *((binary(**{name: ""}), name) for name in ("id", "source", "type")),
        *((structured(**{name: 5}), name) for name in ("specversion", "id", "source", "type")),
        (binary(specversion="0.3"), "specversion"),
        (structured(specversion="2.0"), "specversion"),
        (structured(LEAK_MARKER.encode()), "body"),
        (structured(b"[]"), "body"),
        (structured(b'["data"]'), "body"),
        (structured(b'"data"'), "body"),
        (structured(b"7"), "body"),
        (structured(b'{"id": 1, "id": 2}'), "body"),
        (structured(b"\xff"), "body"),
        (structured(b"[" * 100_000), "body"),
        (structured(b" " * 9_000_000), "data"),
        (structured(data=1, data_base64=""), "data_base64"),
        (structured(data_base64="%"), "data_base64"),
        (structured(data_base64=5), "data_base64"),
        (structured(datacontenttype=5), "datacontenttype"),
        (replace(structured(), content_type="application/cloudevents-batch+json"), "format"),
        (replace(structured(), content_type="application/cloudevents+avro"), "format"),
    ],
)
def test_an_invalid_event_has_a_reason_that_names_the_attribute(message, detail):
    with pytest.raises(UnreadableMessage) as caught:
        received(message)

    assert (caught.value.code, caught.value.detail) == ("cloudevent_invalid", detail)


def test_data_that_is_too_large_is_no_payload():
    with pytest.raises(UnreadableMessage) as caught:
        received(structured(data="a" * 1_048_576))

    assert (caught.value.code, caught.value.detail) == ("malformed", "payload")


@pytest.mark.parametrize(
    ("body", "payload"), [(b'{"a": 1}', {"a": 1}), (b"", b""), (b"\xff", b"\xff"), (b"a", b"a")]
)
def test_a_binary_event_without_a_content_type_is_json_if_it_can_be(body, payload):
    assert received(replace(binary(body=body), content_type=None)).payload == payload


EVENTS = {
    "json": an_event(),
    "digits": Event("t.d", {"a": 1}, headers={"traceparent": "00-1", "source": "lab 7"}),
    "text": Event("t.d", "é\U0001f600\n"),
    "bytes": Event("t.d", b"\xff\0", content_type="image/png", correlation_id="c"),
    "fhir": Event("t.d", b'{"v": 1.10}', content_type="application/fhir+json; fhirVersion=4.0"),
    "no json": Event("t.d", b'1}, "id": "x"', content_type="application/fhir+json"),
    "keyed": Event(
        "t.d", None, ordering_key="patient-7", idempotency_key="k", headers={"source": "/s"}
    ),
    "deep": Event("t.d", b"[" * 200 + b"]" * 200, content_type="application/fhir+json"),
}


def sent(event: Event, mode: Any, prefix: str = "cloudEvents_") -> WireMessage:
    plain = on_the_wire(event, exchange="main", created_at=NOON)
    return CloudEventsWriter(mode, SOURCE, prefix).written(plain)


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_our_consumer_reads_our_events_as_if_they_were_no_cloudevents(mode, event):
    plain = on_the_wire(event, exchange="main", created_at=NOON)

    written = sent(event, mode)

    assert written != plain
    assert foreign.read(written) == replace(plain, headers=dict(plain.headers))
    assert received(written) == received(plain)


def test_a_binary_event_has_its_attributes_as_headers_and_everything_else_as_before():
    event = an_event(correlation_id="c", ordering_key="patient-7")
    plain = on_the_wire(event, exchange="main", created_at=NOON)

    written = sent(event, "binary", "ce-")

    assert replace(written, headers=plain.headers) == plain
    assert {name: value for name, value in written.headers.items() if name[:3] == "ce-"} == {
        "ce-specversion": "1.0",
        "ce-id": str(event.id),
        "ce-source": SOURCE,
        "ce-type": event.type,
        "ce-time": event.occurred_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "ce-correlationid": "c",
    }
    assert "patient-7" not in str(written.headers)


def test_a_structured_event_is_one_json_object():
    event = Event("t.d", {"a": 1}, headers={"traceparent": "00-1", "source": "/ward"})

    body = json.loads(sent(event, "structured").body)

    assert UUID(body.pop("id")) == event.id
    assert body.pop("time").endswith("Z")
    assert body == {
        "specversion": "1.0",
        "source": "/ward",
        "type": "t.d",
        "traceparent": "00-1",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }
    assert sent(event, "structured").content_type == "application/cloudevents+json"


def test_text_that_is_not_json_cannot_add_attributes():
    body = json.loads(sent(EVENTS["no json"], "structured").body)

    assert UUID(body["id"]) == EVENTS["no json"].id
    assert base64.b64decode(body["data_base64"]) == b'1}, "id": "x"'


def test_a_compressed_body_is_published_in_binary_mode():
    plain = on_the_wire(an_event(), exchange="main", created_at=NOON)
    packed = replace(plain, body=gzip.compress(plain.body), content_encoding="gzip")

    written = CloudEventsWriter("structured", SOURCE).written(packed)

    assert (written.body, written.headers["cloudEvents_id"]) == (packed.body, packed.message_id)
    assert received(written) == received(plain)
