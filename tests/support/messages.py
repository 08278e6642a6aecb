"""
Messages as handlers get them.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from consumer import Message


def a_delivered_message(**fields: Any) -> Message[Any]:
    """A message of an event that has just occurred, with these *fields*."""
    identity = uuid4()
    values: dict[str, Any] = {
        "id": identity,
        "type": "test.happened",
        "payload": None,
        "idempotency_key": str(identity),
        "routing_key": "test.happened",
        "occurred_at": datetime.now(UTC),
        "correlation_id": None,
        "headers": {},
        "attempt": 1,
        "redelivered": False,
    }
    return Message(**{**values, **fields})
