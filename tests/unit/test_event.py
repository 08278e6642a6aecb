import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from outbox import Event, InvalidEvent, allow_headers
from outbox.payload import MAX_BODY_BYTES
from tests.support.builders import LEAK_MARKER, an_event

EAST = timezone(timedelta(hours=5))


def test_routing_key_and_idempotency_key_have_defaults():
    event = an_event(type="a.b")

    assert event.routing_key == "a.b"
    assert event.idempotency_key == str(event.id)
    assert event.id.version == 7


def test_json_is_compact_utf_8():
    assert an_event(payload={"ä": [1, None, True]}).body == '{"ä":[1,null,true]}'.encode()


def test_bytes_travel_as_they_are():
    event = an_event(payload=b"\x00\xff", content_type="application/avro")

    assert (event.body, event.content_type) == (b"\x00\xff", "application/avro")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("type", {"type": "x" * 129}),
        ("routing_key", {"routing_key": "\ud800"}),
        ("ordering_key", {"ordering_key": ""}),
        ("ordering_key", {"ordering_key": "k" * 256}),
        ("idempotency_key", {"idempotency_key": "k" * 256}),
        ("correlation_id", {"correlation_id": 7}),
        ("priority", {"priority": "urgent"}),
        ("id", {"id": "not-a-uuid"}),
        ("occurred_at", {"occurred_at": datetime(2026, 1, 1)}),  # noqa: DTZ001
        ("not_before", {"not_before": datetime(2026, 1, 1)}),  # noqa: DTZ001
        ("occurred_at", {"occurred_at": datetime(1969, 12, 31, tzinfo=UTC)}),
        ("occurred_at", {"occurred_at": datetime.max.replace(tzinfo=UTC)}),
        (
            "occurred_at",
            {"occurred_at": datetime.min.replace(tzinfo=EAST)},
        ),
        ("not_before", {"not_before": datetime.max.replace(tzinfo=UTC)}),
        ("content_type", {"payload": b"x"}),
        ("content_type", {"payload": {}, "content_type": "text/plain"}),
        ("payload", {"payload": "x" * MAX_BODY_BYTES}),
        ("payload.a[1]", {"payload": {"a": [1, math.nan]}}),
        ("payload.a.b", {"payload": {"a": {"b": object()}}}),
        ("headers.source", {"headers": {"source": LEAK_MARKER * 100}}),
        ("headers.source", {"headers": {"source": "\ud800"}}),
    ],
)
def test_an_invalid_event_names_the_field_and_never_its_value(field, changes):
    with pytest.raises(InvalidEvent) as caught:
        an_event(**changes)

    assert caught.value.field == field
    assert LEAK_MARKER not in str(caught.value)


def test_a_payload_that_contains_itself_is_refused():
    payload: list = []
    payload.append(payload)

    with pytest.raises(InvalidEvent, match="payload"):
        an_event(payload=payload)


def test_an_infinitely_deep_payload_is_refused():
    payload: list = []
    for _ in range(100_000):
        payload = [payload]

    with pytest.raises(InvalidEvent, match="nested too deeply"):
        an_event(payload=payload)


def test_an_event_does_not_show_its_payload():
    assert LEAK_MARKER not in repr(an_event(payload=LEAK_MARKER))


def test_an_event_cannot_be_changed():
    event = an_event(headers={"source": "a"})

    with pytest.raises(AttributeError):
        event.type = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        event.headers["source"] = "b"  # type: ignore[index]


def test_further_headers_must_be_allowed_first():
    with pytest.raises(InvalidEvent):
        an_event(headers={"tenant-of-test": 1})

    allow_headers("tenant-of-test")

    assert an_event(headers={"tenant-of-test": 1}).headers == {"tenant-of-test": 1}


def test_type_and_payload_may_be_given_by_position():
    assert Event("a", 1).body == b"1"


FORKING = """
import os
from outbox import Event

new_id = Event.__dataclass_fields__["id"].default_factory

def ids():
    return b"".join(new_id().bytes for _ in range(10))

ids()
start, begin = os.pipe()
readers = []
for _ in range(8):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(begin)
        os.read(start, 1)  # until the parent closes its end: all children begin together
        os.write(writer, ids())
        os._exit(0)
    os.close(writer)
    readers.append(reader)
os.close(begin)
found = b"".join(open(reader, "rb").read() for reader in readers)
ids = [found[at : at + 16] for at in range(0, len(found), 16)]
assert len(ids) == 80
# The first half is the time, which may differ by chance.
print(len(ids) - len({each[8:] for each in ids}))
"""


def test_forked_processes_give_no_id_twice():
    """As workers of a web server do; uuid-utils before 0.14 copies the state of its generator."""
    command = [sys.executable, "-c", FORKING]
    done = subprocess.run(command, check=True, capture_output=True, text=True)

    assert done.stdout == "0\n"
