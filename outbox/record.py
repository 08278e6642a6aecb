"""
Recording events in the caller's own transaction.

Nothing here flushes, commits or opens a transaction: the events commit or roll back with whatever
else the caller writes.
"""

from typing import Any, Protocol, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import registry

from outbox.codec import to_row
from outbox.errors import InvalidEvent
from outbox.event import Event, SupportsEvent
from outbox.tables import outbox

Recordable: TypeAlias = Event | SupportsEvent

_COLUMNS_SET = 14
MAX_INSERT = 32_766 // _COLUMNS_SET
"""Most events in one `insert`: SQLite and Postgres drivers bind about 32,766 parameters."""


class SupportsAdd(Protocol):
    """A SQLAlchemy `Session`, `AsyncSession` or `scoped_session`."""

    def add(self, instance: object, /) -> None: ...


class _Row:
    """One outbox row on its way through a session."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


# Mapped by the event's id, which is known before the INSERT: the flush then needs no RETURNING,
# and a producer needs no privilege but INSERT.
registry().map_imperatively(
    _Row,
    outbox,
    primary_key=[outbox.c.event_id],
    exclude_properties=["id"],
    eager_defaults=False,
)


def add(session: SupportsAdd, /, *events: Recordable) -> None:
    """
    Record *events* in the transaction of *session*, in this order.

    Works alike for `Session` and `AsyncSession`, and is never awaited: the rows are written when
    the session flushes, at the latest when it commits.
    """
    for event in events:
        session.add(_Row(**to_row(_event(event))))


def insert(*events: Recordable) -> sa.Insert:
    """
    An INSERT of *events* for `connection.execute`, of any driver, synchronous or not.

    Raises InvalidEvent for no events, or for more than `MAX_INSERT`.
    """
    if not 1 <= len(events) <= MAX_INSERT:
        raise InvalidEvent("events", f"must be 1 to {MAX_INSERT} in one insert")
    return sa.insert(outbox).values([to_row(_event(event)) for event in events])


def _event(recordable: Recordable) -> Event:
    if isinstance(recordable, Event):
        return recordable
    try:
        convert = recordable.to_event
    except AttributeError:
        raise InvalidEvent("events", "must be Events or have a method to_event") from None
    return convert()
