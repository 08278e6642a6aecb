"""
A copy as a JSON object: its metadata, and with bodies all that may identify a person.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from outbox.dead_letters import redaction
from outbox.transports.observation import Copy
from outbox.wire.headers import parse


def metadata(copy: Copy, *, at: datetime) -> dict[str, Any]:
    """Return the parts that every user of the command may see; *at* is when the copy came."""
    message, headers = copy.message, parse(copy.message.headers)
    priority = message.priority if headers.priority is None else headers.priority
    return {
        "observed_at": at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "type": message.type,
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "message_id": message.message_id,
        "correlation_id": message.correlation_id,
        "priority": priority,
        "lane": headers.lane,
        "failed_attempts": headers.failed_attempts,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "size_bytes": copy.size,
        "occurred_at": None if headers.occurred_at is None else headers.occurred_at.isoformat(),
        "queues": list(copy.queues),
    }


def private(copy: Copy, decrypted: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys and body; those that were *decrypted* stand for what the message has."""
    letter = {
        "body": copy.message.body,
        "content_encoding": copy.message.content_encoding,
        "body_expired_at": None,
        **decrypted,
    }
    return {
        "idempotency_key": parse(copy.message.headers).idempotency_key,
        **redaction.private(letter),
        **redaction.body(letter),
    }
