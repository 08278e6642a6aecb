"""
The rows of a request, as objects that a session can add: one of the outbox, and one of `replies`.
"""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from outbox.reply_table import replies
from outbox.tables import outbox
from outbox.wire.row_codec import WRITTEN_COLUMNS
from outbox.written_table import written

_OF_REQUEST = tuple(dict.fromkeys([*WRITTEN_COLUMNS, "reply_to", "expires_at"]))
_OF_REPLY = ("correlation_id", "request_id", "type", "expires_at")


def request_row() -> type[Any]:
    """Return the class of outbox rows that are requests, in the schema of `use_schema`."""
    found: type[Any] = _row_class(outbox, _OF_REQUEST, "event_id", written().schema)
    return found


def reply_row() -> type[Any]:
    """Return the class of rows of `replies`, in the schema of `use_schema`."""
    found: type[Any] = _row_class(replies, _OF_REPLY, "correlation_id", written().schema)
    return found


@cache
def _row_class(table: sa.Table, columns: tuple[str, ...], key: str, schema: str | None) -> Any:
    """Once for each schema: SQLAlchemy keeps mapped classes, and their statements, for ever."""

    class Base(DeclarativeBase):
        """Listeners of the application find `__tablename__`, `__table__` and so on."""

    class Row(Base):
        __tablename__ = table.name
        __table__ = sa.Table(
            table.name,
            Base.metadata,
            *(
                sa.Column(name, table.c[name].type, primary_key=name == key, nullable=name != key)
                for name in columns
            ),
            schema=schema,
        )
        # No RETURNING: the privilege INSERT suffices.
        __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 - as SQLAlchemy documents it

    return Row
