"""
The table that a producer writes to: `outbox`, in the schema that `use_schema` names.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from outbox.errors import ConfigurationError
from outbox.event import Event
from outbox.schema_name import check_schema_name
from outbox.tables import outbox
from outbox.wire.row_codec import to_row

WRITTEN_COLUMNS = tuple(to_row(Event("example", None)))


@dataclass(frozen=True, slots=True)
class WrittenTable:
    """
    The *table* for Core, and the class of its *row* for a session.

    Args:
        schema: None: Postgres finds the table by `search_path`.

    """

    schema: str | None
    table: sa.Table
    row: type[Any]


def use_schema(name: str | None) -> None:
    """
    Let `outbox.add` and `outbox.insert` of this process write to the schema *name* of Postgres.

    Call it once at start, with the MQ_DATABASE_SCHEMA of the relay; the name is quoted. Without
    it, or with None, statements name no schema: Postgres finds the table by the `search_path` of
    the connection, and a `schema_translate_map` of the application applies to it.

    Raises ConfigurationError if no schema can have the name.
    """
    global _written  # noqa: PLW0603 - one for the process, like the allowed headers
    if name is not None:
        if not isinstance(name, str):
            raise ConfigurationError("use_schema: must be a string, or None")
        try:
            check_schema_name(name)
        except ValueError as error:
            raise ConfigurationError(f"use_schema: {error}") from None
    _written = _table_in(name)


def written() -> WrittenTable:
    """Return the table that events are recorded in now."""
    return _written


@cache
def _table_in(schema: str | None) -> WrittenTable:
    """Once for each schema: SQLAlchemy keeps mapped classes, and their statements, for ever."""
    table = outbox if schema is None else outbox.to_metadata(sa.MetaData(), schema=schema)
    return WrittenTable(schema, table, _row_class(schema))


def _row_class(schema: str | None) -> type[Any]:
    class Base(DeclarativeBase):
        """Listeners of the application find `__tablename__`, `__table__` and so on."""

    # For producers the primary key is the event's id, which is known before the INSERT. The flush
    # then needs no RETURNING, and the producer's database user needs no privilege but INSERT.
    class OutboxRow(Base):
        """One row of the outbox, as an object that a session can add."""

        __tablename__ = outbox.name
        __table__ = sa.Table(
            outbox.name,
            Base.metadata,
            *(
                sa.Column(name, outbox.c[name].type, primary_key=name == "event_id")
                for name in WRITTEN_COLUMNS
            ),
            schema=schema,
        )
        __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 - as SQLAlchemy documents it

        @property
        def id(self) -> Any:
            """The id of the event."""
            return self.event_id  # type: ignore[attr-defined]

    return OutboxRow


_written = _table_in(None)
