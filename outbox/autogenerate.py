"""
The hook that excludes the tables of the outbox from Alembic's autogenerate of an application.
"""

from typing import Any

from outbox.tables import metadata

TABLES = frozenset(
    {
        "outbox",
        "dead_letters",
        "audit_log",
        "ordering_secret",
        "outbox_targets",
        "processed_messages",
        "parked_messages",
        "begun_deliveries",
        "outbox_relay_version",
    }
)
"""All tables that `relay migrate` creates."""


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
    if type_ != "table" or name not in TABLES:
        return True
    declared = compare_to if reflected else object
    return declared is not None and declared.metadata is not metadata
