"""
Settings, errors and output of the command lines of both processes.
"""

import asyncio
import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from datetime import timedelta
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outbox.errors import ConfigurationError, Unavailable
from outbox.runtime import logs
from outbox.runtime.service import ExitCode
from outbox.settings import Settings, SharedSettings, load

Result = TypeVar("Result")

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON, for programs.")]

console = Console()

SAFE_SQLITE = (3, 51, 3)
"""Versions from 3.7.0 up to this may corrupt a WAL file that two connections write to."""

EXIT_CODES = (
    "Exit status: 0 stopped cleanly, 1 crashed, 2 bad configuration, "
    "3 database or broker unreachable at start, 4 drain deadline passed."
)


def settings(kind: type[Settings], *, process: str) -> Settings:
    """Load settings and configure the logs; invalid settings end the process with exit code 2."""
    try:
        loaded = load(kind)
    except ConfigurationError as error:
        fail(error)
    logs.configure(loaded, process=process)
    return loaded


def once(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run *work*, and return its result; an expected error ends the process with its exit code."""

    async def awaited() -> Result:
        return await work()

    try:
        return asyncio.run(awaited())
    except (ConfigurationError, Unavailable) as error:
        fail(error)


def fail(error: ConfigurationError | Unavailable) -> NoReturn:
    """Print the problems, one line each, and end the process with exit code 2 or 3."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    unreachable = isinstance(error, Unavailable)
    raise SystemExit(ExitCode.UNREACHABLE if unreachable else ExitCode.BAD_CONFIGURATION)


def warn_of_sqlite(settings: SharedSettings) -> None:
    """Warn if SQLite is the database and its version may corrupt a file with several writers."""
    is_sqlite = settings.database.get_backend_name() == "sqlite"
    if is_sqlite and sqlite3.sqlite_version_info < SAFE_SQLITE:
        version = ".".join(map(str, SAFE_SQLITE))
        print(  # noqa: T201
            f"warning: SQLite {sqlite3.sqlite_version} has the WAL-reset bug, which may corrupt a "
            f"file that several processes write to; it is fixed in {version}",
            file=sys.stderr,
        )


def warn_of_uncompared(entities: Sequence[str]) -> None:
    """Warn of exchanges and queues whose arguments this user may not compare."""
    for entity in entities:
        print(  # noqa: T201
            f"warning: {entity}: exists, but its arguments could not be compared, since the "
            "broker's user may not configure it",
            file=sys.stderr,
        )


def show(title: str, rows: dict[str, object]) -> None:
    """Print a table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(Text(name), Text(shown(value)))
    console.print(table)


def show_lines(title: str, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """Print a table with headings; the first column of *lines* is a name."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for line in lines:
        table.add_row(*(Text(shown(value)) for value in line))
    console.print(table)


def shown(value: object) -> str:
    """Format *value* for people."""
    match value:
        case None:
            return "-"
        case timedelta():
            return str(timedelta(seconds=int(value.total_seconds())))
        case int():
            return f"{value:,}"
        case _:
            return str(value)


def print_json(value: object) -> None:
    """Print *value* as one line of JSON; names of durations end in `_seconds`."""
    print(json.dumps(value, default=_plain))  # noqa: T201 - rich would fold it


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value):
        return {_key(field): getattr(value, field.name) for field in fields(value)}
    raise TypeError(type(value).__name__)


def _key(field: "Field[object]") -> str:
    is_duration = field.type in (timedelta, timedelta | None)
    return f"{field.name}_seconds" if is_duration else field.name
