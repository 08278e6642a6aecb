"""
An event on its way, as the relay reads it from the outbox and the consumer from the broker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from outbox.event import Priority
from outbox.payload import JSON_CONTENT_TYPE
from outbox.validation import HeaderValue


# Only decryption changes an envelope. `frozen` would make it three times as expensive to make, and
# so would arguments by name only; each event has one made.
@dataclass(slots=True)
class Envelope:
    """
    An event on its way, with its body as bytes.

    *id* is a UUID, or the text that another publisher chose for its message.
    *exchange* is None for the configured main exchange.
    *ordering_key* is None on the consumer's side: it never leaves the database. There *lane* says
    which messages belong together, or is None for those that have no key.
    *recorded_at* is when the outbox row was inserted, in whole seconds on the consumer's side.
    """

    id: UUID | str
    type: str
    body: bytes = field(repr=False)
    routing_key: str
    idempotency_key: str = field(repr=False)
    occurred_at: datetime
    exchange: str | None = None
    ordering_key: str | None = field(default=None, repr=False)
    lane: str | None = None
    correlation_id: str | None = field(default=None, repr=False)
    priority: Priority = Priority.NORMAL
    headers: Mapping[str, HeaderValue] = field(default_factory=dict, repr=False)
    recorded_at: datetime | None = None
    content_type: str = JSON_CONTENT_TYPE
    content_encoding: str | None = None
