"""
What errors of SQLite mean.
"""

import sqlite3

# Locked by a program that does not know of our lock, or trouble of the disk: heals by itself or
# by an operator. Any other error is a mistake of ours, and is not hidden.
_TROUBLE_CODES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}


def is_trouble(error: BaseException | None) -> bool:
    """Whether *error* comes from SQLite, and is not about what it was asked to do."""
    return primary_code(error) in _TROUBLE_CODES


def primary_code(error: BaseException | None) -> int:
    """SQLite's result code in *error*, or SQLITE_MISUSE if that is none of SQLite's."""
    # Extended codes keep it in their low byte. The module's own errors have none.
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
    return code & 0xFF
