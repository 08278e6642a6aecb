"""
The schema of Postgres that holds the tables, by its name.
"""

SCHEMA = "outbox_schema"
"""The execution option of an engine that names the schema of the tables, or None."""

_MAX_BYTES = 63
"""Postgres cuts a longer name, and would take another schema for it."""


def check_schema_name(name: str) -> str:
    """
    Return *name* if a schema of Postgres may have it; statements quote it.

    Raises ValueError, whose text does not name the setting or argument.
    """
    if not name:
        raise ValueError("must not be empty")
    if not name.isprintable() or len(name.encode()) > _MAX_BYTES:
        raise ValueError(f"must be at most {_MAX_BYTES} bytes of printable characters")
    if name.startswith("pg_") or name in {"information_schema", "$user"}:
        raise ValueError("must not be a name that Postgres has for itself")
    return name


def quoted(name: str) -> str:
    """Return *name* as an identifier of SQL, with its quotes."""
    return '"{}"'.format(name.replace('"', '""'))
