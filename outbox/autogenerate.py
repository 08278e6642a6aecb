"""
The hooks that exclude the tables of the outbox from Alembic's autogenerate of an application.
"""

from collections.abc import Mapping
from typing import Any

from outbox import audit_tables, consumer_tables, reply_table
from outbox.tables import metadata
from outbox.written_table import written

# It has all tables once these modules are imported.
assert consumer_tables.processed_messages.metadata is metadata  # noqa: S101
assert audit_tables.audit_log.metadata is metadata  # noqa: S101
assert reply_table.replies.metadata is metadata  # noqa: S101

TABLE_NAMES = frozenset({*metadata.tables, "outbox_relay_version"})
"""
The names of all tables that `relay migrate` creates.

Each is in `outbox.metadata` as well, except the table with the revision, which Alembic creates.
"""


def include_name(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """
    Return whether autogenerate of an application reads *name* from the database; not our tables.

    Pass it to `context.configure(include_name=outbox.include_name)` in the `env.py` of the
    application. After `outbox.use_schema` only the tables of that schema are left out; before it,
    those of every schema. An application that has a table of such a name in another schema, or
    `outbox.metadata` in its `target_metadata`, takes `include_object`.
    """
    if type_ != "table" or name not in TABLE_NAMES:
        return True
    # None is the default schema of the connection, whose name is not known here.
    ours = written().schema
    return ours is not None and parent_names.get("schema_name") not in (None, ours)


def include_object(
    object: Any,  # noqa: A002 - Alembic passes arguments by position, and documents these names
    name: str | None,
    type_: str,
    reflected: bool,
    compare_to: Any,
) -> bool:
    """
    Return whether autogenerate of an application compares *object*; false for our tables.

    Pass it to `context.configure(include_object=outbox.include_object)` in the `env.py` of the
    application. A table of the application that has the *name* of one of ours is compared.
    """
    if type_ != "table" or name not in TABLE_NAMES:
        return True
    declared = compare_to if reflected else object
    return declared is not None and declared.metadata is not metadata
