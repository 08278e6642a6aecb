"""
The rules for a producer's session that may add a row of the outbox.
"""

from typing import Any

from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction

from outbox.errors import InvalidEvent
from outbox.tables import outbox
from outbox.written_row import written_row

_OPEN = {None, "ACTIVE", "PROVISIONING_CONNECTION"}
_OPEN_OR_KEPT = _OPEN | {"PREPARED", "COMMITTED"}
"""States of a savepoint whose rows the outer transaction still writes."""

_BIND_IT = "add outbox.metadata.tables['outbox'] and its engine to the binds of the session"


def check(session: object, *written: type[Any]) -> None:
    """
    Check that *session* writes a row of the outbox that is added now; sets its engine if needed.

    *written* are the classes of the rows; default is that of events.

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
        for row in written or [written_row()]:
            _bind(session, row)


def _state(transaction: SessionTransaction | None) -> str | None:
    # Public attributes do not tell an ended transaction from one that gets its connection.
    return None if transaction is None else transaction._state.name  # noqa: SLF001


def _bind(session: Session, row: type[Any]) -> None:
    try:
        session.get_bind(row.__mapper__)
    except UnboundExecutionError:
        engines = {id(bind): bind for bind in session.binds.values()}
        if (bind := session.binds.get(outbox)) is not None:
            session.bind_mapper(row, bind)
        elif len(engines) == 1:
            session.bind_mapper(row, *engines.values())
        else:
            found = "several engines" if engines else "no engine"
            raise InvalidEvent(
                "session", f"has {found}, and none for the outbox: {_BIND_IT}"
            ) from None
