"""
Checks the integrity of SQLite files.
"""

import sqlite3
from contextlib import closing
from pathlib import Path


def is_sound(file: Path) -> bool:
    """Whether *file*, with its write-ahead log, passes SQLite's integrity check."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
