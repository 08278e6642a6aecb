"""
Recording events in the caller's own transaction.

These functions never flush, commit or open a transaction: the events commit or roll back together
with the caller's other writes.
"""

from typing import Any, Protocol, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import registry

from outbox.errors import InvalidEvent
from outbox.event import Event, SupportsEvent
from outbox.tables import outbox
from outbox.wire.codec import to_row

Recordable: TypeAlias = Event | SupportsEvent

_WRITTEN_COLUMNS = tuple(to_row(Event("example", None)))

MAX_INSERT = 32_766 // len(_WRITTEN_COLUMNS)
"""Most events in one `insert`: drivers of SQLite and Postgres bind about 32,766 parameters."""


class SupportsAdd(Protocol):
    """A SQLAlchemy `Session`, `AsyncSession` or `scoped_session`."""

    def add(self, instance: object, /) -> None: ...


class _Row:
    """One outbox row, as an object that a session can add."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


# For producers the primary key is the event's id, which is known before the INSERT. The flush then
# needs no RETURNING, and the producer's database user needs no privilege but INSERT.
_written = sa.Table(
    outbox.name,
    sa.MetaData(),
    *(
        sa.Column(name, outbox.c[name].type, primary_key=name == "event_id")
        for name in _WRITTEN_COLUMNS
    ),
)
registry().map_imperatively(_Row, _written, eager_defaults=False)


def add(session: SupportsAdd, /, *events: Recordable) -> None:
    """
    Record *events* in the transaction of *session*, in this order.

    *session* is a `Session` or an `AsyncSession`, and the call is never awaited: the session
    writes the rows when it flushes, at the latest when it commits.
    Raises InvalidEvent if an argument is not an event and has no method `to_event`.
    """
    for event in events:
        session.add(_Row(**to_row(_event(event))))


def insert(*events: Recordable) -> sa.Insert:
    """
    Return an INSERT of *events* for `connection.execute`, for synchronous and asyncio drivers.

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
