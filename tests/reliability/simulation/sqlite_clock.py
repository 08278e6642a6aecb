"""
Makes SQLite's clock follow the simulated one.

A function of the same name replaces SQLite's own, in column defaults too. SQLite still does the
arithmetic, on the simulated time.
"""

import sqlite3
from datetime import UTC, datetime
from functools import cache
from typing import Any


def follow_the_loop(connection: sqlite3.Connection) -> None:
    """Make 'now' mean the time of `datetime.now`, on this *connection*."""
    connection.create_function("strftime", -1, _strftime)


def _strftime(form: str, *rest: Any) -> Any:
    time, *modifiers = rest or ("now",)
    if time == "now":
        time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    marks = ", ?" * len(modifiers)
    found = _calculator().execute(f"SELECT strftime(?, ?{marks})", (form, time, *modifiers))
    return found.fetchone()[0]


@cache
def _calculator() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False)
