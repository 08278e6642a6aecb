"""
The standard of encrypted bodies: its test vectors, and everything that a body is bound to.
"""

import gzip
import json
import os
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from outbox.encryption import associated_data, body_format, content, key_ring
from outbox.encryption.content import Content
from outbox.encryption.decryptor import Decryptor
from outbox.encryption.digests import Digests
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.keys import WrappedKey
from outbox.errors import ConfigurationError, InvalidEvent, UnreadableMessage
from outbox.payload import MAX_BODY_BYTES
from outbox.wire import codec
from outbox.wire.codec import WireMessage
from outbox.wire.encrypted import ENCODING
from outbox.wire.envelope import Envelope
from tests.support.builders import AN_INSTANT, TRACEPARENT, an_event
from tests.support.encryption import (
    SubjectsInMemory,
    a_ring,
    encrypted_message,
    encrypted_row,
)
from tests.support.pages import REPOSITORY

VECTORS = json.loads((REPOSITORY / "tests" / "vectors" / "encrypted-body.json").read_text())
RING = key_ring.parse(json.dumps(VECTORS["keys"]), source="vectors")
SUBJECTS = {UUID(id_): AESGCM(bytes.fromhex(key)) for id_, key in VECTORS["subject_keys"].items()}


def named(vectors: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize(
        "vector", [pytest.param(one, id=one["name"]) for one in vectors]
    )


def message_of(vector: dict[str, Any]) -> WireMessage:
    event = vector["event"]
    return WireMessage(
        "main",
        event["routing_key"],
        bytes.fromhex(vector["encrypted"]),
        event["event_id"],
        event["type"],
        timestamp=AN_INSTANT,
        content_type=event["content_type"],
        content_encoding=ENCODING,
        headers={"x-outbox-idempotency-key": event["idempotency_key"]},
    )


def read(message: WireMessage, ring: Any = RING, subjects: Any = SUBJECTS) -> Envelope:
    return codec.from_wire(message, decrypt=partial(Decryptor(ring).decrypted, subjects=subjects))


@named(VECTORS["bodies"])
def test_a_vector_is_read(vector):
    envelope = read(message_of(vector))

    private = vector["private"] or {}
    assert envelope.body.hex() == vector["body"]
    assert envelope.correlation_id == private.get("correlation_id")
    assert envelope.headers == private.get("headers", {})
    assert envelope.content_encoding is None


@named(VECTORS["bodies"])
def test_a_vector_is_what_the_parts_of_the_product_write(vector):
    event, private = vector["event"], vector["private"] or {}
    subject = vector["subject_key_id"]
    fixed = body_format.fixed(vector["compression"], subject and UUID(subject))
    if subject:
        cipher, key_part = SUBJECTS[UUID(subject)], body_format.NO_KEY_PART
    else:
        wrapped = bytes.fromhex(vector["wrapped_key"])
        assert RING.unwrap(WrappedKey(vector["key_id"], wrapped)).hex() == vector["data_key"]
        cipher = AESGCM(bytes.fromhex(vector["data_key"]))
        key_part = body_format.key_part(vector["key_id"], wrapped)
    packed = content.pack(
        Content(
            bytes.fromhex(vector["body"]),
            private.get("correlation_id"),
            private.get("headers", {}),
        )
    )
    bound = associated_data.of_body(
        *(fixed, event["type"], event["routing_key"], event["content_type"]),
        *(event["event_id"], event["idempotency_key"]),
    )
    nonce = bytes.fromhex(vector["nonce"])

    assert packed.hex() == vector["content"]
    assert bound.hex() == vector["associated_data"]
    sealed = cipher.encrypt(nonce, bytes.fromhex(vector["compressed_content"]), bound)
    assert (fixed + key_part + nonce + sealed).hex() == vector["encrypted"]


@named(VECTORS["refused"])
def test_a_changed_vector_is_refused(vector):
    with pytest.raises(UnreadableMessage) as refused:
        read(message_of(vector))

    assert refused.value.code == vector["error"]


def test_the_digests_of_the_vectors_are_those_of_the_product():
    digests = Digests(RING.digest_key())
    for vector in VECTORS["digests"]:
        assert digests.text_of(vector["domain"], vector["value"]) == vector["digest"]


def test_a_source_without_a_whole_digest_key_is_refused():
    with pytest.raises(ConfigurationError, match="MQ_ENCRYPTION_KEYS: the digest key"):
        Digests(b"")


keys = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=40
)
MARK = "private-to-the-event-"
private = keys.map(lambda text: MARK + text)


@given(
    payload=st.binary(max_size=200) | st.dictionaries(keys, keys | st.integers() | st.none()),
    routing_key=keys,
    idempotency_key=st.just("") | private,
    correlation_id=st.none() | private,
    headers=st.dictionaries(
        st.sampled_from(["source", "traceparent", "schema-version"]),
        keys | st.integers(-(2**63), 2**63 - 1) | st.booleans(),
    ),
    subject=st.none() | private,
)
def test_an_event_comes_back_as_it_was_recorded(payload, subject, **fields):
    ring, subjects = a_ring(), SubjectsInMemory()
    content_type = "application/octet-stream" if isinstance(payload, bytes) else ""
    event = an_event(payload=payload, content_type=content_type, subject=subject, **fields)

    message = encrypted_message(encrypted_row(Encryptor(ring, subjects=subjects), event))
    envelope = read(message, ring, subjects.ciphers)

    for name in ("id", "type", "body", "routing_key", "content_type", "headers", "correlation_id"):
        assert getattr(envelope, name) == getattr(event, name)
    assert MARK not in repr((message.headers, message.correlation_id))
    assert MARK.encode() not in message.body


def test_a_body_belongs_to_the_fields_of_its_event_in_any_spelling_of_the_id():
    ring = a_ring()
    row = encrypted_row(Encryptor(ring), an_event(idempotency_key="visit-1"))
    message = encrypted_message(row)
    another = encrypted_message(encrypted_row(Encryptor(ring), an_event()))
    headers = message.headers

    for spelled in (message.message_id.upper(), f"{{{message.message_id}}}", row["event_id"].hex):
        assert read(replace(message, message_id=spelled), ring).body == b'{"number":1}'
    copy = replace(
        message, routing_key="work", headers={**headers, "x-outbox-routing-key": "test.happened"}
    )
    assert read(copy, ring).body == b'{"number":1}'
    for change in (
        {"body": another.body},
        {"message_id": another.message_id},
        {"type": "test.other"},
        {"routing_key": "test.other"},
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": None},
        {"headers": {**headers, "x-outbox-idempotency-key": "visit-2"}},
        {"headers": {k: v for k, v in headers.items() if k != "x-outbox-idempotency-key"}},
    ):
        with pytest.raises(UnreadableMessage, match="body_not_authentic"):
            read(replace(message, **change), ring)


def test_a_message_that_lost_its_headers_is_read_if_its_key_was_the_id():
    ring = a_ring()
    message = encrypted_message(encrypted_row(Encryptor(ring), an_event()))

    assert read(replace(message, headers={}), ring).idempotency_key == message.message_id


def test_only_the_trace_is_taken_from_outside_an_encrypted_body():
    ring = a_ring()
    event = an_event(headers={"traceparent": TRACEPARENT, "source": "ward-9"})
    message = encrypted_message(encrypted_row(Encryptor(ring), event))
    forged = {**message.headers, "source": "forged", "schema-version": 9, "user": "forged"}

    assert message.headers["traceparent"] == TRACEPARENT
    assert "source" not in message.headers
    assert read(replace(message, headers=forged), ring).headers == event.headers


def test_private_fields_that_no_event_may_have_are_dropped():
    fields = {
        "correlation_id": "two words",
        "headers": {"source": "s", "x-outbox-lane": "x", "list": [1], "half": 0.5},
        "more": 1,
    }
    private = json.dumps(fields).encode()

    found = content.unpack(len(private).to_bytes(4) + private + b"body")
    assert found.headers == {"source": "s"}

    ring = a_ring()
    row = encrypted_row(Encryptor(ring), an_event())
    encryptor = Encryptor(ring)
    row = encryptor.encrypted({**row, "correlation_id": "two words"}, compression="none")
    message = encrypted_message({**row, "exchange": None})
    assert read(message, ring, {}).correlation_id is None


def test_private_fields_are_bounded_both_ways():
    private = {"source": "x" * content.MAX_PRIVATE_BYTES}
    with pytest.raises(InvalidEvent, match="headers: are larger than 65536 bytes"):
        content.pack(Content(b"", None, private))

    size = content.MAX_PRIVATE_BYTES + 1
    text = b"{" + b" " * (size - 2) + b"}"
    for data in (size.to_bytes(4) + text, b"\xff\xff\xff\xff{}", b'\0\0\0\x02{"'):
        with pytest.raises(UnreadableMessage, match="private fields"):
            content.unpack(data)


def test_a_body_that_is_too_large_once_encrypted_is_refused_by_field():
    encryptor = Encryptor(a_ring())
    largest = MAX_BODY_BYTES - 200

    encrypted_row(encryptor, an_event(payload=b"x" * largest, content_type="a/b"))
    with pytest.raises(InvalidEvent, match="payload: is larger than 1048576 bytes when encrypted"):
        encrypted_row(encryptor, an_event(payload=b"x" * MAX_BODY_BYTES, content_type="a/b"))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_the_largest_payload_is_read_back_if_compression_makes_it_fit(compression):
    ring = a_ring()
    event = an_event(payload=b"x" * MAX_BODY_BYTES, content_type="a/b", headers={"source": "s"})

    row = encrypted_row(Encryptor(ring), event, compression=compression)

    assert len(row["body"]) < 10_000
    assert body_format.parse(row["body"]).head.compression == compression
    assert read(encrypted_message(row), ring).body == event.body


def test_a_content_that_does_not_end_is_stopped_at_its_limit():
    vector, ring = VECTORS["bodies"][0], a_ring()
    key = os.urandom(32)
    fixed = body_format.fixed("gzip", None)
    event = vector["event"]
    bound = associated_data.of_body(
        *(fixed, event["type"], event["routing_key"], event["content_type"]),
        *(event["event_id"], event["idempotency_key"]),
    )
    bomb = gzip.compress(bytes(content.MAX_BYTES + 1))
    sealed = AESGCM(key).encrypt(bytes(12), bomb, bound)
    body = fixed + body_format.key_part(*ring.wrap(key)) + bytes(12) + sealed

    with pytest.raises(UnreadableMessage, match="decompress_limit"):
        read(replace(message_of(vector), body=body), ring)


def test_a_rewrapped_body_is_read_with_the_new_key_alone():
    old, new = a_ring(), a_ring()
    row = encrypted_row(Encryptor(old), an_event())
    parts = body_format.parse(memoryview(row["body"]))  # as psycopg2 returns it
    wrapped = new.wrap(old.unwrap(WrappedKey(parts.key_id, parts.wrapped_key)))

    body = body_format.rewrapped(memoryview(row["body"]), *wrapped)

    message = encrypted_message({**row, "body": body})
    assert read(message, new).body == b'{"number":1}'
    with pytest.raises(UnreadableMessage, match="key_unknown"):
        read(message, old)


def test_a_body_of_a_subject_has_no_key_to_rewrap():
    encryptor = Encryptor(a_ring(), subjects=SubjectsInMemory())
    body = encrypted_row(encryptor, an_event(subject="patient-17"))["body"]

    with pytest.raises(ValueError, match="no wrapped key"):
        body_format.rewrapped(body, *a_ring().wrap(bytes(32)))


@pytest.mark.parametrize("key_id", ["", "x" * 256, "clé", "two words", "tab\t"])
def test_a_source_whose_key_ids_do_not_fit_is_named_by_its_setting(key_id):
    with pytest.raises(ConfigurationError, match="MQ_ENCRYPTION_KEYS: the id of a key"):
        body_format.key_part(key_id, b"wrapped")


def test_a_wrapped_key_has_a_largest_size():
    for wrapped in (b"", bytes(8_193)):
        with pytest.raises(ConfigurationError, match="MQ_ENCRYPTION_KEYS: a wrapped key"):
            body_format.key_part("key", wrapped)
    longest = body_format.key_part("k" * 255, bytes(8_192))
    body = body_format.fixed("none", None) + longest + bytes(28)
    assert body_format.parse(body).key_id == "k" * 255


@given(st.binary(max_size=120) | st.binary(max_size=120).map(lambda more: b"\1\0" + more))
def test_any_bytes_are_read_or_refused_with_a_code(body):
    message = replace(message_of(VECTORS["bodies"][0]), body=body)

    with pytest.raises(UnreadableMessage) as refused:
        read(message)

    assert refused.value.code in {
        *("malformed", "schema_unsupported", "key_unknown", "body_not_authentic"),
    }


def test_no_repr_shows_a_key_or_a_body():
    ring, subjects = a_ring(), SubjectsInMemory()
    encryptor = Encryptor(ring, subjects=subjects)
    row = encrypted_row(encryptor, an_event(payload={"name": "Zoë"}, subject="patient-17"))
    (subject_key,) = subjects.by_digest.values()
    secrets = {
        "digest key": ring.digest_key(),
        "key": ring.keys[0].key,
        "subject key": subject_key.key,
        "ciphertext": body_format.parse(row["body"]).ciphertext,
    }
    shown = "".join(
        repr(value)
        for value in (
            *(ring, *ring.keys, subject_key, encryptor, Decryptor(ring), Digests(bytes(32))),
            encryptor._current.take(),
            encryptor._subjects,
            body_format.parse(row["body"]),
            Content(b"Zo\xc3\xab", "patient-17", {"source": "patient-17"}),
        )
    )

    for name, secret in secrets.items():
        assert repr(secret)[2:-1] not in shown, name
        assert secret.hex() not in shown, name
    assert "patient-17" not in shown
    assert "Zo" not in shown
