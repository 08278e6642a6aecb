"""
Reading the events that a session or a connection has recorded; nothing is flushed.
"""

from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from outbox.producer_encryption import readable
from outbox.testing.recorded_event import RecordedEvent, from_values, type_of
from outbox.testing.unawaited import to_await
from outbox.wire.row_codec import WRITTEN_COLUMNS
from outbox.written_row import written_row
from outbox.written_table import written

if TYPE_CHECKING:  # a producer with a synchronous driver may not have greenlet, which it needs
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

Recorder: TypeAlias = "Session | scoped_session[Any] | sa.Connection"
AsyncRecorder: TypeAlias = "AsyncSession | async_scoped_session[Any] | AsyncConnection"


@overload
def recorded(
    session: Recorder, kind: str | type[object] | None = None, /
) -> list[RecordedEvent]: ...


@overload
def recorded(
    session: AsyncRecorder, kind: str | type[object] | None = None, /
) -> Coroutine[Any, Any, list[RecordedEvent]]: ...


def recorded(
    session: "Recorder | AsyncRecorder", kind: str | type[object] | None = None, /
) -> list[RecordedEvent] | Coroutine[Any, Any, list[RecordedEvent]]:
    """
    Return the events that *session* has recorded, in order; of an asynchronous one, await them.

    They are the rows of the outbox that its transaction sees, and then the events that it has not
    flushed yet. Rows that others have committed are among them, unless a relay has published them:
    give each test a database of its own, or a transaction that is rolled back. *kind* is an event
    type, or a class with `event_type`; then only its events are returned.

    The function flushes nothing, and begins no transaction of *session*. It raises TypeError for
    another kind of object, and InvalidEvent for a class without `event_type`.
    """
    found = read(session, None if kind is None else type_of(kind))
    return found if isinstance(found, list) else to_await("recorded", found)


def read(
    session: "Recorder | AsyncRecorder", wanted: str | None
) -> list[RecordedEvent] | Callable[[], Coroutine[Any, Any, list[RecordedEvent]]]:
    """The recorded events, of the type *wanted* if it is given; or the function to await them."""
    # The registry of a scoped session returns the session of this task or thread.
    registry = getattr(session, "registry", None)
    found = cast("object", registry() if callable(registry) else session)
    if hasattr(found, "run_sync"):
        of_task = cast("AsyncSession | AsyncConnection", found)
        return partial(of_task.run_sync, _read, wanted)
    return _read(found, wanted)


def _read(session: object, wanted: str | None) -> list[RecordedEvent]:
    if isinstance(session, sa.Connection):
        found = list(_stored(session))
    elif isinstance(session, Session):
        found = [*_flushed(session), *_pending(session)]
    else:
        raise TypeError("must be a Session, an AsyncSession, a Connection or an AsyncConnection")
    return [event for event in found if wanted is None or event.type == wanted]


def _flushed(session: Session) -> Iterator[RecordedEvent]:
    mapper = written_row().__mapper__
    bind = session.get_bind(mapper)
    if session.in_transaction() or isinstance(bind, sa.Connection):
        yield from _stored(session.connection(bind_arguments={"mapper": mapper}))
        return
    # A session that begins its transaction here could not be begun by the test any more.
    with bind.connect() as connection:
        yield from _stored(connection)


def _stored(connection: sa.Connection) -> Iterator[RecordedEvent]:
    columns = written().table.c
    rows = sa.select(*(columns[name] for name in WRITTEN_COLUMNS)).order_by(columns.id)
    for row in connection.execute(rows).mappings().all():
        yield from_values(readable(dict(row)))


def _pending(session: Session) -> Iterator[RecordedEvent]:
    for row in session.new:
        if isinstance(row, written_row()):
            yield from_values(readable({name: getattr(row, name) for name in WRITTEN_COLUMNS}))
