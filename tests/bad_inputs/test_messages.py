"""
Messages of unknown publishers: a consumer gives each bad one a reason code, and shows no value.
"""

import gzip
import tracemalloc
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import JsonValue, RootModel

from consumer.execution.decode import Attempt, decode_delivery
from consumer.handler import Handler
from consumer.payload_type import PayloadType
from consumer.storage.completed import key_of
from consumer.verdict import DeadLetter, Verdict, after_failure
from outbox import HealthDataMessage
from outbox.backoff import RetrySchedule
from outbox.errors import UnreadableMessage
from outbox.payload import MAX_BODY_BYTES
from outbox.transports.delivery import Delivery
from outbox.wire import codec
from outbox.wire.codec import WireMessage
from outbox.wire.compression import decompress
from tests.support.builders import LEAK_MARKER, an_event, an_upload, on_the_wire
from tests.support.decompression_bomb import gzip_bomb, zstd_bomb

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ANY = Handler("test.happened")
UPLOADS = Handler("health.data.uploaded", payload_type=PayloadType(HealthDataMessage))
UPLOAD = on_the_wire(an_upload().to_event(), exchange="main", created_at=NOON)
MEMBER = gzip.compress(b'{"a":1}')
MIB = 2**20


def a_message(**changes: Any) -> WireMessage:
    return replace(on_the_wire(an_event(), exchange="main", created_at=NOON), **changes)


def with_header(name: str, value: Any) -> WireMessage:
    message = a_message()
    return replace(message, headers={**message.headers, name: value})


def opened(message: WireMessage, handler: Handler = ANY) -> Attempt | Verdict:
    return decode_delivery(
        Delivery(message, 1, redelivered=False),
        handler,
        now=NOON,
        oldest=NOON - timedelta(days=30),
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff" + LEAK_MARKER.encode(),
        f'{{"note": "{LEAK_MARKER}"'.encode(),
        f'{{"{LEAK_MARKER}": 1, "{LEAK_MARKER}": 2}}'.encode(),
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"1" * 5_000,
        b"-Infinity",
        b"[1] [2]",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        b'{"value":1e400}',
        b'{"value":-1' + b"0" * 400 + b".0}",
        b'"\\ud800"',
        '{"note":"ä"}'.encode("latin-1"),
        '{"number":1}'.encode("utf-16"),
        b"[" * 201 + b"]" * 201,
        b'[{"a":' * 100 + b"[1]" + b"}]" * 100,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        bytes(MAX_BODY_BYTES + 1),
    ],
    ids=[
        "empty",
        "no utf-8",
        "cut",
        "key twice",
        "deep arrays",
        "deep objects",
        "endless integer",
        "infinity",
        "trailing",
        "marks",
        "a number without bound",
        "digits without bound",
        "half of a pair",
        "latin-1",
        "utf-16",
        "201 arrays",
        "201 of both",
        "100,000 arrays",
        "100,000 objects",
        "too large",
    ],
)
@pytest.mark.parametrize("handler", [ANY, UPLOADS], ids=["value", "model"])
def test_a_body_that_is_no_json_is_malformed(body, handler):
    assert opened(a_message(body=body), handler) == DeadLetter(1, "malformed")


@pytest.mark.parametrize(
    "message_id",
    [None, "", " ", "\0", "msg 456", "msg-456\n", "{" * 256, "msg-\ud800"],
)
def test_a_message_without_an_identity_is_never_handled(message_id):
    assert opened(a_message(message_id=message_id)) == DeadLetter(1, "no_identity")


@pytest.mark.parametrize(
    "message_id",
    ["msg-456", "17", "0" * 31, "0" * 33, "{" * 255, "käse", f"tenant-b:{UUID(int=1)}"],
)
def test_an_id_of_another_publisher_is_kept_and_is_the_key_to_deduplicate_by(message_id):
    attempt = opened(a_message(message_id=message_id, headers={}))

    assert isinstance(attempt, Attempt)
    assert (attempt.message.id, attempt.key) == (message_id, message_id)


def test_a_uuid_is_the_same_in_each_of_its_spellings():
    known = UUID(int=2**100)
    for spelling in (str(known).upper(), known.hex, known.urn, f"{{{known}}}"):
        attempt = opened(a_message(message_id=spelling, headers={}))

        assert isinstance(attempt, Attempt)
        assert (attempt.message.id, attempt.key) == (known, str(known))


@pytest.mark.parametrize("version", [0, 2, 99, -1, "1", "latest", None, [1], {"v": 1}])
def test_a_format_of_another_version_is_not_guessed_at(version):
    assert opened(with_header("x-outbox-version", version)) == DeadLetter(1, "schema_unsupported")


@pytest.mark.parametrize(
    "body",
    [
        UPLOAD.body.replace(b'"bucket":"uploads",', b""),
        UPLOAD.body.replace(b'"bucket":"uploads"', f'"bucket":["{LEAK_MARKER}"]'.encode()),
        UPLOAD.body.replace(b'"bucket"', f'"{LEAK_MARKER}":1,"bucket"'.encode()),
        f'"{LEAK_MARKER}"'.encode(),
        b"null",
    ],
    ids=["removed", "of another type", "of the future", "text", "null"],
)
def test_a_body_of_another_schema_is_not_guessed_at(body):
    assert body != UPLOAD.body
    assert opened(replace(UPLOAD, body=body), UPLOADS) == DeadLetter(1, "schema_unsupported")


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("br", b"{}", "content_encoding_unknown"),
        ("deflate", zlib.compress(b"{}"), "content_encoding_unknown"),
        ("utf-8; gzip", MEMBER, "content_encoding_unknown"),
        ("gzip, gzip", gzip.compress(MEMBER), "content_encoding_unknown"),
        ("gzip", gzip.compress(MEMBER), "malformed"),
        ("gzip", b"{}", "malformed"),
        ("gzip", b"", "malformed"),
        ("gzip", MEMBER[:-1], "malformed"),
        ("gzip", MEMBER[:-5] + b"\0" + MEMBER[-4:], "malformed"),
        ("gzip", MEMBER + MEMBER, "malformed"),
        ("gzip", MEMBER + LEAK_MARKER.encode(), "malformed"),
        ("gzip", zlib.compress(b"{}"), "malformed"),
        ("aes-256-gcm", b"\x8f" * 40, "content_encoding_unknown"),
    ],
    ids=[
        "unknown",
        "deflate",
        "no list",
        "twice",
        "twice unsaid",
        "plain",
        "empty",
        "cut",
        "tampered",
        "two members",
        "rest",
        "zlib",
        "encrypted",
    ],
)
def test_a_body_that_cannot_be_unpacked_has_its_reason(encoding, body, code):
    message = a_message(content_encoding=encoding, body=body)

    assert opened(message) == DeadLetter(1, code)


def test_bytes_that_were_packed_twice_or_in_parts_are_not_handed_over_in_part():
    """Without a model the first part would pass for the whole body."""
    for body in (MEMBER + MEMBER, MEMBER + b"\0"):
        message = a_message(content_type="application/avro", content_encoding="gzip", body=body)

        assert opened(message) == DeadLetter(1, "malformed")


@pytest.mark.parametrize(("encoding", "bomb"), [("gzip", gzip_bomb), ("zstd", zstd_bomb)])
def test_a_body_that_unpacks_to_ten_gigabytes_takes_a_few_megabytes(encoding, bomb):
    packed = bomb(10 * 2**30)
    assert len(packed) < 20 * MIB

    tracemalloc.start()
    try:
        with pytest.raises(UnreadableMessage) as caught:
            decompress(packed, encoding)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert caught.value.code == "decompress_limit"
    # One body of the largest size, and at most a copy of what was not unpacked.
    assert peak < len(packed) + 4 * MIB


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (-1, 1),
        (10**9, 1_000_001),
        (2**63 - 1, 1_000_001),
        ("abc", 1),
        ("3", 1),
        (1.5, 1),
        (True, 1),
        (None, 1),
        ([3], 1),
    ],
)
def test_a_forged_attempt_is_bounded_and_the_retries_end(value, number):
    """An attempt that is forged too low counts from there, and each copy carries the count."""
    attempt = opened(with_header("x-outbox-attempt", value))

    assert isinstance(attempt, Attempt)
    assert attempt.number == number
    last = after_failure(
        RuntimeError(LEAK_MARKER), number + 3, RetrySchedule([timedelta(seconds=1)], 3), jitter=0
    )
    assert last == DeadLetter(number + 3, "retries_exhausted")


def test_a_message_that_is_older_than_the_retention_is_dead_lettered():
    long_ago = NOON - timedelta(days=31)
    recorded = int(long_ago.timestamp())

    for message in (
        with_header("x-outbox-recorded-at", recorded),
        a_message(headers={}, timestamp=long_ago),
    ):
        assert opened(message) == DeadLetter(1, "too_old_to_dedupe")


@pytest.mark.parametrize("run", [str(UUID(int=1)), "17", LEAK_MARKER, 7, None, b"\xff"])
def test_a_forged_mark_of_a_replay_has_no_effect(run):
    """The consumer looks it up in the audit log, and only for messages that are too old."""
    old = replace(with_header("x-outbox-replay", run), timestamp=NOON - timedelta(days=31))
    headers = {**old.headers, "x-outbox-recorded-at": 0}

    assert opened(replace(old, headers=headers)) == DeadLetter(1, "too_old_to_dedupe")
    assert isinstance(opened(with_header("x-outbox-replay", run)), Attempt)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": LEAK_MARKER + " with space"},
        {"type": "a" * 129},
        {"content_type": LEAK_MARKER},
        {"headers": {"x-outbox-idempotency-key": LEAK_MARKER + "\0"}},
        {"headers": {"x-outbox-idempotency-key": "a" * 256}},
        {"content_type": "application/json; charset"},
    ],
    ids=str,
)
def test_a_property_out_of_bounds_is_malformed_and_not_shown(changes):
    message = a_message(**changes)

    assert opened(message) == DeadLetter(1, "malformed")
    with pytest.raises(UnreadableMessage) as caught:
        codec.from_wire(message)
    assert LEAK_MARKER not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(("priority", "level"), [(255, "high"), (0, "low"), (None, "normal")])
def test_any_priority_is_one_of_three(priority, level):
    assert codec.from_wire(a_message(priority=priority)).priority == level


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "UTF-8", "utf8", "us-ascii", "ISO-8859-1", "utf-16le", "binary", "8bit", "Identity"],
)
def test_a_charset_where_the_encoding_belongs_is_no_encoding(encoding):
    """Celery, kombu and Spring write it there."""
    attempt = opened(a_message(content_encoding=encoding))

    assert isinstance(attempt, Attempt)
    assert attempt.message.payload == {"number": 1}


@pytest.mark.parametrize("encoding", ["GZIP", "x-gzip", "gzip, identity", "utf-8 ,X-GZip"])
def test_gzip_is_known_by_all_its_names(encoding):
    attempt = opened(a_message(content_encoding=encoding, body=MEMBER))

    assert isinstance(attempt, Attempt)
    assert attempt.message.payload == {"a": 1}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json ; charset=utf-8",
        'application/json; charset="utf-8"',
        "application/json;charset=iso-8859-1",
    ],
)
def test_json_is_json_with_any_parameters_and_in_any_case(content_type):
    attempt = opened(a_message(content_type=content_type))

    assert isinstance(attempt, Attempt)
    assert attempt.message.payload == {"number": 1}


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/json",
        "application/octet-stream",
        "application/fhir+json; fhirVersion=4.0",
        "application/vnd.acme.v2+json",
        "APPLICATION/FHIR+JSON",
    ],
)
def test_json_by_another_name_is_json_where_a_model_asks_for_it(content_type):
    upload = opened(replace(UPLOAD, content_type=content_type), UPLOADS)
    raw = opened(a_message(content_type=content_type))

    assert isinstance(upload, Attempt)
    assert isinstance(upload.message.payload, HealthDataMessage)
    assert isinstance(raw, Attempt)
    assert raw.message.payload == a_message().body


@pytest.mark.parametrize(
    "content_type",
    ["application/avro", "text/plain", 'multipart/related; type="application/json"', "a/b"],
)
def test_a_model_is_read_from_no_other_type(content_type):
    message = replace(UPLOAD, content_type=content_type)

    assert opened(message, UPLOADS) == DeadLetter(1, "malformed")


@pytest.mark.parametrize("correlation_id", ["", " ", "request 42", "a\nb", "\0", "x" * 256])
def test_a_correlation_id_that_no_event_could_have_counts_as_absent(correlation_id):
    attempt = opened(a_message(correlation_id=correlation_id))

    assert isinstance(attempt, Attempt)
    assert attempt.message.correlation_id is None


@pytest.mark.parametrize("key", ["", None, 7, ["a"]])
def test_an_idempotency_key_that_is_empty_or_no_text_counts_as_absent(key):
    """Producers of this library leave it empty too, to deduplicate by the id."""
    message = with_header("x-outbox-idempotency-key", key)

    attempt = opened(message)

    assert isinstance(attempt, Attempt)
    assert attempt.key == message.message_id
    assert key_of({"message_id": message.message_id, "headers": message.headers}) == attempt.key


@pytest.mark.parametrize("routing_key", ["", "a b", "#"])
def test_a_message_with_any_routing_key_is_handled(routing_key):
    """Fanout and headers exchanges ignore the key, and their publishers leave it empty."""
    attempt = opened(a_message(routing_key=routing_key))

    assert isinstance(attempt, Attempt)
    assert attempt.message.routing_key == routing_key


@pytest.mark.parametrize(
    ("header", "timestamp"),
    [
        ("0001-01-01T00:00:00+14:00", None),
        ("0001-01-01T00:00:00", datetime.fromtimestamp(0, UTC)),
        ("9999-12-31T23:59:59-14:00", datetime.max.replace(tzinfo=UTC)),
        (None, datetime.fromtimestamp(0, UTC)),
        (7, datetime.fromtimestamp(1, UTC)),
    ],
)
def test_a_time_that_no_event_could_have_counts_as_absent(header, timestamp):
    headers = {} if header is None else {"x-outbox-occurred-at": header}
    before = datetime.now(UTC)

    attempt = opened(a_message(headers=headers, timestamp=timestamp))

    assert isinstance(attempt, Attempt)
    assert before <= attempt.message.occurred_at <= datetime.now(UTC)


def test_a_body_is_read_at_the_greatest_depth_with_and_without_a_model():
    class Anything(RootModel[JsonValue]):
        pass

    for body in (b"[" * 200 + b"]" * 200, b'[{"]":' * 100 + b"1" + b"}]" * 100):
        for handler in (ANY, Handler("test.happened", payload_type=PayloadType(Anything))):
            assert isinstance(opened(a_message(body=body), handler), Attempt)
