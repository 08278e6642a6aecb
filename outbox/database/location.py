"""
Where the tables are: one schema of Postgres, or a SQLite file.

Statements name no schema, so Postgres searches the schemas of `search_path` for each table. It
creates tables in the first one. The connections of an engine that is made for one schema search it
first; only tables in that schema are taken for ours.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.errors import ConfigurationError, SchemaMismatch
from outbox.schema_name import SCHEMA, quoted

VERSION_TABLE = "outbox_relay_version"

CREATED_BY = {
    "outbox": "0001",
    "dead_letters": "0001",
    "processed_messages": "0001",
    "audit_log": "0003",
    "parked_messages": "0003",
    "ordering_salt": "0003",
    "ordering_secret": "0006",
    "outbox_targets": "0008",
    "begun_deliveries": "0009",
    "failing_messages": "0011",
    "outbox_processes": "0011",
    "outbox_compatibility": "0011",
    "audit_head": "0012",
    "approvals": "0012",
    "replies": "0016",
    "consumer_generations": "0017",
    "consumer_partitions": "0017",
    "consumer_members": "0017",
}
"""The tables, by the revision that creates each."""

RENAMED = {"ordering_salt": "0006"}
"""The tables that a later revision renames."""

_SCHEMA_OF = sa.text(
    "SELECT namespace.nspname FROM pg_class AS relation"
    " JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace"
    " WHERE relation.oid = to_regclass(:name)"
)
_SCHEMAS_OF = sa.text(
    "SELECT wanted.name, namespace.nspname AS schema FROM unnest(:names) AS wanted (name)"
    " JOIN pg_class AS relation ON relation.oid = to_regclass(wanted.name)"
    " JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace"
).bindparams(sa.bindparam("names", type_=ARRAY(sa.Text)))
_SCHEMA = sa.text(
    "SELECT to_regnamespace(quote_ident(:name)) IS NOT NULL AS exists,"
    " has_database_privilege(current_database(), 'CREATE') AS may_create,"
    " current_schema() AS first, quote_ident(current_user) AS role"
)
_RELATIONS = sa.text(
    "SELECT relname FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace"
)


@dataclass(frozen=True, slots=True)
class Location:
    """The *schema* of the tables, None on SQLite, and its *revision*, None without tables."""

    schema: str | None
    revision: str | None

    def __str__(self) -> str:
        schema = "the schema" if self.schema is None else f"schema {self.schema}"
        return f"{schema} is at revision {self.revision}"


ANYWHERE = Location(None, None)
"""The tables of a process that does not check where they are."""


def intended(connection: sa.Connection) -> str | None:
    """Return the schema that the engine of *connection* is made for, or None for any."""
    schema: str | None = connection.get_execution_options().get(SCHEMA)
    return schema


def find(connection: sa.Connection) -> Location:
    """Return where *connection* finds the table with the revision."""
    schema = intended(connection)
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return Location(schema, None)
    version = sa.table(VERSION_TABLE, sa.column("version_num"), schema=schema)
    revision = connection.scalar(sa.select(version.c.version_num))
    return Location(schema or schema_of(connection, VERSION_TABLE), revision)


def schema_of(connection: sa.Connection, table: str) -> str | None:
    """Return the schema in which *connection* finds *table*, or None; None on SQLite."""
    if connection.dialect.name != "postgresql":
        return None
    schema: str | None = connection.scalar(_SCHEMA_OF, {"name": table})
    return schema


def verify_one_schema(connection: sa.Connection, expected: str | None) -> None:
    """Raise SchemaMismatch unless all tables are found in the schema *expected*."""
    if connection.dialect.name != "postgresql":
        return
    for table in CREATED_BY:
        found = None if table in RENAMED else schema_of(connection, table)
        if table not in RENAMED and found != expected:
            place = "missing" if found is None else f"in schema {found}"
            raise SchemaMismatch(
                f"{table}: is {place}, and {VERSION_TABLE} in schema {expected}: let search_path"
                " of the role begin with the schema that has all tables"
            )


async def moved(
    connection: AsyncConnection, tables: Iterable[sa.Table], expected: str | None
) -> list[str]:
    """
    Return a line for each of *tables* that is no longer found in the schema *expected*.

    Another `search_path`, or a table that was created in an earlier schema of it, hides the rows
    that wait from a process that runs.
    """
    if expected is None:
        return []
    found = await connection.execute(_SCHEMAS_OF, {"names": [table.name for table in tables]})
    return [
        f"{row.name}: is now found in schema {row.schema}, and was in schema {expected} when the"
        f" process started: let search_path of the role begin with {expected}, or restart"
        for row in found
        if row.schema != expected
    ]


def check_before_migration(connection: sa.Connection, known: Collection[str]) -> None:
    """
    Check that a migration of *connection* would work on its own tables only.

    Raises SchemaMismatch if their revision is not *known*, or if another program has created a
    table of such a name, and ConfigurationError unless one schema is meant.
    """
    if (schema := intended(connection)) is not None and not _exists(connection, schema):
        return
    found = find(connection)
    place = "the file"
    if connection.dialect.name == "postgresql":
        place = f"schema {_first_schema(connection, found)}"
    if found.revision is not None and found.revision not in known:
        raise SchemaMismatch(
            f"{found}, which a newer version of this program created: install that version"
        )
    others = sorted(_created_after(found.revision) & _relations(connection))
    if others:
        raise SchemaMismatch(
            f"{place} has {' and '.join(others)} already, which another program created: use a"
            " schema or a file of its own for the outbox, or rename those tables"
        )


def _exists(connection: sa.Connection, schema: str) -> bool:
    """Whether *schema* exists, so that its tables are found; otherwise it may be created."""
    state = connection.execute(_SCHEMA, {"name": schema}).one()
    if state.first == schema:
        return True
    if state.first is not None:
        raise ConfigurationError(
            f"schema {quoted(schema)}: is not the first one of search_path, which a process does"
            " not change behind a connection pooler: CREATE SCHEMA if it is missing, and ALTER"
            f" ROLE {state.role} SET search_path = {quoted(schema)}, public"
        )
    if state.exists:
        raise ConfigurationError(
            f"no privilege: GRANT USAGE, CREATE ON SCHEMA {quoted(schema)} TO {state.role}"
        )
    if not state.may_create:
        raise ConfigurationError(
            "the schema does not exist, and the role may not create it: CREATE SCHEMA"
            f" {quoted(schema)} AUTHORIZATION {state.role}"
        )
    return False


def _first_schema(connection: sa.Connection, found: Location) -> str:
    first = connection.scalar(sa.text("SELECT current_schema()"))
    if first is None:
        raise ConfigurationError(
            "search_path: the role may use none of its schemas: create one, or GRANT USAGE ON it"
        )
    if found.schema is not None and found.schema != first:
        raise ConfigurationError(
            f"search_path begins with schema {first}, and the tables are in schema"
            f" {found.schema}: add --schema {found.schema} to upgrade those, or --schema {first}"
            " to create further ones"
        )
    return str(first)


def _relations(connection: sa.Connection) -> set[str]:
    """The names that are taken where the migration creates tables."""
    if connection.dialect.name == "postgresql":
        return set(connection.scalars(_RELATIONS))
    return {*sa.inspect(connection).get_table_names(), *sa.inspect(connection).get_view_names()}


def _created_after(revision: str | None) -> set[str]:
    """The tables that the revisions after *revision* create or rename to."""
    return {table for table, by in CREATED_BY.items() if revision is None or by > revision}
