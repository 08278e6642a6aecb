"""
Whether this program may work on tables of another revision than its own.

Tables that are older lack something that this program uses. Newer tables say themselves, in
`outbox_compatibility`, which programs may work on them: a migration that only adds leaves that row
as it is, and one that removes something moves it to the first revision that does without. So a
rolling upgrade migrates first, and replaces the processes one by one.
"""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from outbox.database.errors import NO_PRIVILEGE, sqlstate
from outbox.database.location import Location
from outbox.errors import SchemaMismatch
from outbox.tables import outbox_compatibility

MIGRATE = "run `relay migrate`"
NEWER = "a newer version of this program created it"


def check(connection: sa.Connection, found: Location, known: Collection[str]) -> None:
    """
    Check that a program that knows the revisions *known* may work on the tables that were *found*.

    Raises SchemaMismatch.
    """
    own = max(known)
    if found.revision == own:
        return
    if found.revision in known:
        raise SchemaMismatch(f"{found} instead of {own}: {MIGRATE}")
    oldest = _oldest_revision(connection, found)
    if oldest is None:
        raise SchemaMismatch(f"{found} instead of {own}: {NEWER}")
    if oldest not in known:
        raise SchemaMismatch(
            f"{found} instead of {own}: {NEWER}, and only programs from revision {oldest} on may"
            " work on it"
        )


def warning(found: Location, known: Collection[str]) -> str | None:
    """Return what to do about tables that are newer than the program; None if they are not."""
    if found.revision is None or found.revision in known:
        return None
    return (
        f"{found}, and this program is made for {max(known)}: it may work on it, so that processes"
        " can be replaced one by one; install the newer version"
    )


def _oldest_revision(connection: sa.Connection, found: Location) -> str | None:
    """The oldest revision whose programs may work on the tables; None if they do not say."""
    table = outbox_compatibility.name
    if not sa.inspect(connection).has_table(table, schema=found.schema):
        return None
    rows = sa.table(table, sa.column("oldest_revision", sa.Text), schema=found.schema)
    try:
        oldest: str | None = connection.scalar(sa.select(rows.c.oldest_revision))
    except DBAPIError as error:
        if sqlstate(error) != NO_PRIVILEGE:
            raise
        raise SchemaMismatch(f"no privilege: GRANT SELECT ON {table}") from None
    return oldest
