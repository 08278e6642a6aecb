"""
The values in the tables of consumers, which `outbox.consumer_tables` defines.
"""

from datetime import timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa

from outbox.consumer_tables import (
    begun_deliveries,
    consumer_generations,
    consumer_members,
    consumer_partitions,
    failing_messages,
    parked_messages,
    processed_messages,
)
from outbox.database_time import now_plus

__all__ = [
    "COMPLETED",
    "FAILED",
    "PROCESSING",
    "ago",
    "as_uuid",
    "begun_deliveries",
    "consumer_generations",
    "consumer_members",
    "consumer_partitions",
    "digest_of",
    "failing_messages",
    "parked_messages",
    "processed_messages",
]

COMPLETED = "completed"
FAILED = "failed"
PROCESSING = "processing"

_OTHER_IDS = UUID("6f1c7a52-1d0e-5b1c-9a64-3c1c3f0e7d21")


def as_uuid(message_id: UUID | str) -> UUID:
    """
    The value of the column `message_id`: a UUID, made from an id that is none.

    The id itself is the idempotency key of such a message, unless a header names another.
    """
    return message_id if isinstance(message_id, UUID) else uuid5(_OTHER_IDS, message_id)


def digest_of(key: str) -> str:
    """
    The value of the column `message`, of a message with this idempotency *key*.

    A digest, because another program may have put a text of any size and content there.
    """
    return blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def ago(age: timedelta) -> sa.ScalarSelect[Any]:
    """
    The time *age* before now, as a bound up to which an index is read.

    A sub-select, because Postgres evaluates it once: the clock itself may give another time for
    each row, and Postgres then reads all rows and compares each.
    """
    return sa.select(now_plus(sa.literal(-age.total_seconds()))).scalar_subquery()
