"""
The associated data of an encrypted body: what it is bound to. Pure.

    "outbox-relay body", a zero byte
    the first 18 bytes of the encrypted body
    type, routing key, content type, event id, idempotency key: each with its length before it, in
    4 bytes, big-endian, and in UTF-8

The routing key is the one that the event was first published with, the id is a UUID in lower case
with dashes, and the idempotency key is the one that is sent, which may be a digest. The key id is
bound by the associated data of the wrapped data key.
"""

from functools import lru_cache

_PREFIX = b"outbox-relay body\0"
_KEY_PREFIX = b"outbox-relay data key\0"


def of_body(  # noqa: PLR0917 - called for each message
    fixed: bytes,
    type_: str,
    routing_key: str,
    content_type: str,
    event_id: str,
    idempotency_key: str,
) -> bytes:
    """The associated data of the body of this event, which begins with *fixed*."""
    id_field = _field(event_id)
    # Nearly all events have no key of their own.
    key_field = id_field if idempotency_key == event_id else _field(idempotency_key)
    kind = _of_kind(type_, routing_key, content_type)
    return b"%b%b%b%b%b" % (_PREFIX, fixed, kind, id_field, key_field)


def of_wrapped_key(key_id: str) -> bytes:
    """The associated data of a key that the key-encryption key *key_id* wraps."""
    return _KEY_PREFIX + key_id.encode()


# Kinds of events are few.
@lru_cache(maxsize=1024)
def _of_kind(type_: str, routing_key: str, content_type: str) -> bytes:
    return _field(type_) + _field(routing_key) + _field(content_type)


def _field(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4) + encoded
