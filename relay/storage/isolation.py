"""
Applying changes to many rows when the database refuses some of them.

A trigger or a constraint of another program may raise for a single row. The other rows must not
wait for it, so the changes are halved until the refused row is alone.
"""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.errors import cause_of, sqlstate
from outbox.database.sqlite_errors import primary_code
from outbox.database.sqlstates import Cause

Item = TypeVar("Item")
Scope: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncConnection]]
"""Begins a savepoint or a transaction, whose changes are undone alone if it raises."""


class RowsUnchangedError(Exception):
    """The database reported success, but has not changed all rows: a trigger has kept some."""


def is_about_rows(error: BaseException) -> bool:
    """Whether the database refused a value or a row, and may take the others."""
    if isinstance(error, RowsUnchangedError):
        return True
    if (sqlstate(error) or "").startswith("42") and not _is_of_function(error):
        # A table, column or privilege that a statement of the relay lacks concerns all rows.
        return False
    return cause_of(error) in {Cause.VALUE, Cause.STATEMENT}


def savepoints(connection: AsyncConnection) -> Scope:
    """Return a scope that is a savepoint in the open transaction of *connection*."""

    @asynccontextmanager
    async def begin() -> AsyncIterator[AsyncConnection]:
        async with connection.begin_nested():
            yield connection

    return begin


async def refused(
    scope: Scope,
    items: Sequence[Item],
    act: Callable[[AsyncConnection, Sequence[Item]], Awaitable[None]],
    *,
    others_accepted: bool = False,
) -> list[Item]:
    """
    Apply *act* to *items*, each step in its own *scope*; returns those that the database refused.

    Errors of the connection are raised. So is the error if a name is missing for all *items*,
    unless the database is known to have accepted other rows: then the schema is at fault.
    """
    found = await _refused(scope, items, act)
    accepted = others_accepted or len(found) < len(items)
    if found and not accepted and all(_is_about_names(error) for _, error in found):
        raise found[0][1]
    return [item for item, _ in found]


async def _refused(
    scope: Scope,
    items: Sequence[Item],
    act: Callable[[AsyncConnection, Sequence[Item]], Awaitable[None]],
) -> list[tuple[Item, Exception]]:
    if not items:
        return []
    try:
        async with scope() as connection:
            await act(connection, items)
    except Exception as error:
        if not is_about_rows(error):
            raise
        if len(items) == 1:
            return [(items[0], error)]
    else:
        return []
    middle = len(items) // 2
    first = await _refused(scope, items[:middle], act)
    return first + await _refused(scope, items[middle:], act)


def _is_about_names(error: BaseException) -> bool:
    """Whether a table, column, function or privilege is missing."""
    if (state := sqlstate(error)) is not None:
        return state.startswith("42")
    return primary_code(getattr(error, "orig", None)) == sqlite3.SQLITE_ERROR


def _is_of_function(error: BaseException) -> bool:
    """Whether Postgres raised *error* inside a function: a trigger of another program."""
    orig = getattr(error, "orig", None)
    # SQLAlchemy puts an error of its own between.
    return any(getattr(each, "context", None) for each in (orig, getattr(orig, "__cause__", None)))
