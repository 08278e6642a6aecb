"""
The outbox row of a producer's session, and the rules for sessions that may add one.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction

from outbox.errors import InvalidEvent
from outbox.event import Event
from outbox.tables import outbox
from outbox.wire.row_codec import to_row

WRITTEN_COLUMNS = tuple(to_row(Event("example", None)))

_OPEN = {None, "ACTIVE", "PROVISIONING_CONNECTION"}
_OPEN_OR_KEPT = _OPEN | {"PREPARED", "COMMITTED"}
"""States of a savepoint whose rows the outer transaction still writes."""

_BIND_IT = "add outbox.metadata.tables['outbox'] and its engine to the binds of the session"


class _Base(DeclarativeBase):
    """Listeners of the application find `__tablename__`, `__table__` and so on, as in its own."""


# For producers the primary key is the event's id, which is known before the INSERT. The flush then
# needs no RETURNING, and the producer's database user needs no privilege but INSERT.
class OutboxRow(_Base):
    """One row of the outbox, as an object that a session can add."""

    __tablename__ = outbox.name
    __table__ = sa.Table(
        outbox.name,
        _Base.metadata,
        *(
            sa.Column(name, outbox.c[name].type, primary_key=name == "event_id")
            for name in WRITTEN_COLUMNS
        ),
    )
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 - as SQLAlchemy documents it

    @property
    def id(self) -> Any:
        """The id of the event."""
        return self.event_id  # type: ignore[attr-defined]


def check(session: object) -> None:
    """
    Check that *session* writes an `OutboxRow` that is added now; sets its engine if it has one.

    Raises InvalidEvent if its transaction has ended, has failed or is prepared, or if it is not
    clear which engine writes the outbox.
    """
    if (registry := getattr(session, "registry", None)) is not None:
        session = registry()  # of a scoped session
    session = getattr(session, "sync_session", session)
    if not isinstance(session, Session):
        return
    outer, nested = _state(session.get_transaction()), _state(session.get_nested_transaction())
    if outer not in _OPEN or nested not in _OPEN_OR_KEPT:
        raise InvalidEvent(
            "session",
            "its transaction has been committed, prepared or rolled back, so that the event would"
            " be lost: record it before, for example in before_commit",
        )
    if session.bind is None:
        _bind(session)


def _state(transaction: SessionTransaction | None) -> str | None:
    # Public attributes do not tell an ended transaction from one that gets its connection.
    return None if transaction is None else transaction._state.name  # noqa: SLF001


def _bind(session: Session) -> None:
    try:
        session.get_bind(OutboxRow.__mapper__)
    except UnboundExecutionError:
        engines = {id(bind): bind for bind in session.binds.values()}
        if (bind := session.binds.get(outbox)) is not None:
            session.bind_mapper(OutboxRow, bind)
        elif len(engines) == 1:
            session.bind_mapper(OutboxRow, *engines.values())
        else:
            found = "several engines" if engines else "no engine"
            raise InvalidEvent(
                "session", f"has {found}, and none for the outbox: {_BIND_IT}"
            ) from None
