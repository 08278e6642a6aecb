"""
What a consumer has to be allowed to do to the tables.
"""

import sqlalchemy as sa

from consumer.consumer import Consumer
from consumer.storage.tables import parked_messages, processed_messages
from outbox.database.privileges import Rights
from outbox.tables import audit_log, dead_letters

_EVERYTHING = ("SELECT", "INSERT", "UPDATE", "DELETE")


def needed(consumer: Consumer) -> Rights:
    """The rights that a process of *consumer* needs."""
    rights: dict[sa.Table, tuple[str, ...]] = {
        processed_messages: _EVERYTHING,
        dead_letters: ("SELECT", "INSERT"),
        audit_log: ("SELECT",),
    }
    if consumer.ordered:
        rights[parked_messages] = _EVERYTHING
    return rights


def to_look(consumer: Consumer) -> Rights:
    """The rights that a look at *consumer* needs."""
    return {table: ("SELECT",) for table in needed(consumer) if table is not audit_log}
