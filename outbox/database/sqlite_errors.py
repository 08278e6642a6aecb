"""
The cause of each result code of SQLite, and its meaning in plain words.
"""

import sqlite3
from collections.abc import Mapping

from outbox.database.sqlstates import Cause

_CAUSES: Mapping[int, Cause] = {
    sqlite3.SQLITE_INTERNAL: Cause.UNCERTAIN,
    sqlite3.SQLITE_PERM: Cause.SERVER,
    sqlite3.SQLITE_ABORT: Cause.UNCERTAIN,
    sqlite3.SQLITE_BUSY: Cause.SERVER,
    sqlite3.SQLITE_LOCKED: Cause.SERVER,
    sqlite3.SQLITE_NOMEM: Cause.UNCERTAIN,
    sqlite3.SQLITE_READONLY: Cause.SERVER,
    sqlite3.SQLITE_INTERRUPT: Cause.UNCERTAIN,
    sqlite3.SQLITE_IOERR: Cause.SERVER,
    sqlite3.SQLITE_CORRUPT: Cause.SERVER,
    sqlite3.SQLITE_FULL: Cause.SERVER,
    sqlite3.SQLITE_CANTOPEN: Cause.SERVER,
    sqlite3.SQLITE_PROTOCOL: Cause.SERVER,
    sqlite3.SQLITE_SCHEMA: Cause.UNCERTAIN,
    sqlite3.SQLITE_TOOBIG: Cause.VALUE,
    sqlite3.SQLITE_MISMATCH: Cause.VALUE,
    sqlite3.SQLITE_NOLFS: Cause.SERVER,
    sqlite3.SQLITE_NOTADB: Cause.SERVER,
}

_MEANINGS: Mapping[int, str] = {
    sqlite3.SQLITE_ERROR: (
        "a table, column or function is missing or different: run `relay migrate`"
    ),
    sqlite3.SQLITE_PERM: "the permissions of the SQLite file do not allow this",
    sqlite3.SQLITE_BUSY: "another process or connection has locked the SQLite file",
    sqlite3.SQLITE_LOCKED: "another connection has locked the SQLite file",
    sqlite3.SQLITE_NOMEM: "SQLite has no memory left",
    sqlite3.SQLITE_READONLY: "the SQLite file is read-only",
    sqlite3.SQLITE_IOERR: "the disk with the SQLite file fails",
    sqlite3.SQLITE_CORRUPT: "the SQLite file is damaged",
    sqlite3.SQLITE_FULL: "the disk with the SQLite file is full",
    sqlite3.SQLITE_CANTOPEN: "the SQLite file cannot be opened",
    sqlite3.SQLITE_PROTOCOL: "the locks of the SQLite file do not work",
    sqlite3.SQLITE_SCHEMA: "the schema of the SQLite file changed",
    sqlite3.SQLITE_TOOBIG: "SQLite refuses a value",
    sqlite3.SQLITE_CONSTRAINT: "a constraint of the database refuses a row",
    sqlite3.SQLITE_MISMATCH: "SQLite refuses a value",
    sqlite3.SQLITE_NOLFS: "the disk cannot store a SQLite file of this size",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database, or is damaged",
}


def cause(code: int) -> Cause:
    """Return the cause of a result *code*, primary or extended."""
    # Extended codes have their primary code in the low byte.
    return _CAUSES.get(code & 0xFF, Cause.STATEMENT)


def meaning(code: int) -> str:
    """Return the meaning of a result *code*, as a clause for people."""
    return _MEANINGS.get(code & 0xFF, "SQLite refuses a statement")


def code_of(error: BaseException | None) -> int | None:
    """Return SQLite's result code in *error*; errors of the module `sqlite3` itself have none."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code


def primary_code(error: BaseException | None) -> int:
    """Return SQLite's primary result code in *error*, or SQLITE_MISUSE if it has none."""
    code = code_of(error)
    return sqlite3.SQLITE_MISUSE if code is None else code & 0xFF
