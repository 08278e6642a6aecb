"""
Recording events in the caller's own transaction.

These functions never flush, commit or open a transaction: the events commit or roll back together
with the caller's other writes.
"""

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

import sqlalchemy as sa

from outbox import producer_encryption, tracing
from outbox.errors import InvalidEvent
from outbox.event import Event, SupportsEvent, SupportsEventType
from outbox.payload import is_model
from outbox.wire.row_codec import WRITTEN_COLUMNS, to_row
from outbox.written_table import written

Recordable: TypeAlias = Event | SupportsEvent | SupportsEventType

_WANTED = "must be Events, models whose class names an event_type, or have a method to_event"

MAX_INSERT = 32_766 // len(WRITTEN_COLUMNS)
"""Most events in one `insert`: drivers of SQLite and Postgres bind about 32,766 parameters."""


class SupportsAdd(Protocol):
    """A SQLAlchemy `Session`, `AsyncSession` or `scoped_session`."""

    def add(self, instance: object, /) -> None: ...


def add(session: SupportsAdd, /, *events: Recordable) -> None:
    """
    Record *events* in the transaction of *session*, in this order.

    *session* is a `Session` or an `AsyncSession`, and the call is never awaited: the session
    writes the rows when it flushes, at the latest when it commits. They go to its engine; of a
    session with `binds` to its only engine, or to that of `outbox.metadata.tables["outbox"]`.
    Raises InvalidEvent if *session* is no session, if an argument is no event, no model whose
    class names its `event_type`, and has no method `to_event` that returns an event, if the
    transaction has ended or failed, as in a listener of `after_commit`, or if the session has
    several engines and none for the outbox.

    If the program traces with OpenTelemetry, each event gets a span and carries its context.
    """
    if not callable(getattr(session, "add", None)):
        raise InvalidEvent("session", "must be a Session or an AsyncSession")
    # A caller with a session has imported the ORM, which takes a while.
    from outbox.session import check  # noqa: PLC0415
    from outbox.written_row import written_row  # noqa: PLC0415

    check(session)
    row = written_row()
    for values in rows(events):
        session.add(row(**values))


def insert(*events: Recordable) -> sa.Insert:
    """
    Return an INSERT of *events* for `connection.execute`, for synchronous and asyncio drivers.

    Raises InvalidEvent for no events, or for more than `MAX_INSERT`.
    """
    if not 1 <= len(events) <= MAX_INSERT:
        raise InvalidEvent("events", f"must be 1 to {MAX_INSERT} in one insert")
    return sa.insert(written().table).values(list(rows(events)))


def rows(events: Iterable[Recordable]) -> Iterable[dict[str, Any]]:
    """
    The values of the rows of *events*; traced and encrypted, if the program does that.

    Raises InvalidEvent, ConfigurationError and KeysUnavailable.
    """
    tracer = tracing.tracer_of_program()
    for recordable in events:
        event = event_of(recordable)
        row = to_row(event)
        if tracer is not None:
            row = tracing.recorded(row, tracer)
        yield producer_encryption.recorded(event, row)


def event_of(recordable: Recordable) -> Event:
    """The event that *recordable* is, or is converted to; raises InvalidEvent."""
    if isinstance(recordable, Event):
        return recordable
    if isinstance(recordable, type):
        raise InvalidEvent("events", _WANTED)
    if hasattr(recordable, "to_event"):
        event: object = recordable.to_event() if callable(recordable.to_event) else None
        if not isinstance(event, Event):
            raise InvalidEvent("events", "must have a method to_event that returns an Event")
        return event
    if is_model(recordable):
        return Event.of(recordable)
    raise InvalidEvent("events", _WANTED)
