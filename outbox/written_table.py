"""
The table that a producer writes to: `outbox`, in the schema that `use_schema` names.
"""

from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa

from outbox.errors import ConfigurationError
from outbox.schema_name import check_schema_name
from outbox.tables import outbox


@dataclass(frozen=True, slots=True)
class WrittenTable:
    """
    The *table* for Core; `outbox.written_row` has the class of its rows, for a session.

    Args:
        schema: None: Postgres finds the table by `search_path`.

    """

    schema: str | None
    table: sa.Table


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
    table = outbox if schema is None else outbox.to_metadata(sa.MetaData(), schema=schema)
    return WrittenTable(schema, table)


_written = _table_in(None)
