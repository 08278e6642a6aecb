"""
Rows that the database reports as inserted, and has not: a trigger may drop or change them.

A message is acked once its row is committed, so a row that was silently dropped would lose it.
"""

from typing import Any, NoReturn

import sqlalchemy as sa

from outbox.errors import DatabaseUnavailable


def verify_inserted(result: sa.Result[Any], table: sa.Table, *, rows: int = 1) -> None:
    """Raise DatabaseUnavailable unless the INSERT behind *result* has added *rows* to *table*."""
    if not (isinstance(result, sa.CursorResult) and result.rowcount == rows):
        raise_not_inserted(table)


def raise_not_inserted(table: sa.Table) -> NoReturn:
    """Raise DatabaseUnavailable for a row that is not in *table* after its INSERT."""
    raise DatabaseUnavailable(
        f"{table.name}: a trigger of another program drops or changes the rows that are inserted:"
        " find it in pg_trigger, and drop it"
    )
