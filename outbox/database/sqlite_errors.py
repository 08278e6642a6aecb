"""
Which errors of SQLite come from locks or the disk.
"""

import sqlite3

# Another program holds a lock, or the disk fails: the operation may succeed later, by itself or
# after an operator acts. Any other error is a bug of this project, and is not hidden.
_LOCK_OR_DISK_CODES = {
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


def is_lock_or_disk_error(error: BaseException | None) -> bool:
    """Return whether *error* comes from SQLite's locks or the disk, not from the statement."""
    return primary_code(error) in _LOCK_OR_DISK_CODES


def primary_code(error: BaseException | None) -> int:
    """Return SQLite's primary result code in *error*, or SQLITE_MISUSE if it has none."""
    # Extended codes have it in their low byte. Errors of the module itself have no code.
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
    return code & 0xFF
