"""
Whether a SQLite file is what SQLite says it should be.
"""

import sqlite3
from contextlib import closing
from pathlib import Path


def is_sound(file: Path) -> bool:
    """Whether SQLite finds nothing wrong with *file*, whose write-ahead log is read, too."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
