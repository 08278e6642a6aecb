"""
The rows of a request, as objects that a session can add: one of the outbox, and one of `replies`.

The class of requests is a subclass of that of events: a flush writes the rows of one hierarchy in
the order of the calls, so that a request never overtakes the event before it.
"""

from functools import cache
from threading import Lock
from typing import Any

from sqlalchemy.orm import DeclarativeBase

from outbox.reply_table import replies
from outbox.written_row import mapped_table, written_row
from outbox.written_table import written

_lock = Lock()
_OF_REPLY = ("correlation_id", "request_id", "type", "expires_at")


def request_row() -> type[Any]:
    """Return the class of outbox rows that are requests, in the schema of `use_schema`."""
    event_row: Any = written_row()
    with _lock:
        return _request_class(event_row)


def reply_row() -> type[Any]:
    """Return the class of rows of `replies`, in the schema of `use_schema`."""
    with _lock:
        return _reply_class(written().schema)


@cache
def _request_class(event_row: type[Any]) -> type[Any]:
    """Once for each class of events: SQLAlchemy keeps mapped classes for ever."""

    class RequestRow(event_row):  # type: ignore[misc]
        """One row of the outbox that is a request, as an object that a session can add."""

        __mapper_args__ = {  # noqa: RUF012 - as SQLAlchemy documents it
            "eager_defaults": False,
            # By default a subclass leaves out the columns that its parent has left out.
            "exclude_properties": (),
        }

    return RequestRow


@cache
def _reply_class(schema: str | None) -> type[Any]:
    """Once for each schema: SQLAlchemy keeps mapped classes, and their statements, for ever."""

    class Base(DeclarativeBase):
        """Listeners of the application find `__tablename__`, `__table__` and so on."""

    class ReplyRow(Base):
        """One row of `replies`, as an object that a session can add."""

        __tablename__ = replies.name
        __table__ = mapped_table(
            replies, _OF_REPLY, key="correlation_id", metadata=Base.metadata, schema=schema
        )
        __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 - as SQLAlchemy documents it

    return ReplyRow
