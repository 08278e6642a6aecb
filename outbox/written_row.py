"""
The row of the table that a producer writes to, as an object that a session can add.

Apart from `written_table`, as it imports the ORM, which takes a while.
"""

from collections.abc import Iterable
from functools import cache
from threading import Lock
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from outbox.tables import outbox
from outbox.wire.row_codec import WRITTEN_COLUMNS
from outbox.written_table import written

_OF_REQUEST = ("reply_to", "expires_at")
"""The columns that only a request has; its class is in `outbox.requests.rows`."""

_lock = Lock()


def written_row() -> type[Any]:
    """Return the class of the rows in which events are recorded now."""
    with _lock:
        return _row_class(written().schema)


def mapped_table(
    source: sa.Table, names: Iterable[str], *, key: str, metadata: sa.MetaData, schema: str | None
) -> sa.Table:
    """
    Return the columns *names* of *source* as a table of *metadata* in *schema*.

    Its primary key is *key*, which is known before the INSERT. A flush then needs no RETURNING,
    and the producer's database user needs no privilege but INSERT.
    """
    columns = (sa.Column(name, source.c[name].type, primary_key=name == key) for name in names)
    return sa.Table(source.name, metadata, *columns, schema=schema)


@cache
def _row_class(schema: str | None) -> type[Any]:
    """Once for each schema: SQLAlchemy keeps mapped classes, and their statements, for ever."""

    class Base(DeclarativeBase):
        """Listeners of the application find `__tablename__`, `__table__` and so on."""

    class OutboxRow(Base):
        """One row of the outbox, as an object that a session can add."""

        __tablename__ = outbox.name
        __table__ = mapped_table(
            outbox,
            (*WRITTEN_COLUMNS, *_OF_REQUEST),
            key="event_id",
            metadata=Base.metadata,
            schema=schema,
        )
        __mapper_args__ = {  # noqa: RUF012 - as SQLAlchemy documents it
            "eager_defaults": False,
            "include_properties": WRITTEN_COLUMNS,
        }

        # Listeners of the application read each column of the table.
        reply_to = None
        expires_at = None

        @property
        def id(self) -> Any:
            """The id of the event."""
            return self.event_id  # type: ignore[attr-defined]

    return OutboxRow
