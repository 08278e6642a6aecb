"""
What the command lines of both processes share.
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

AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON, for programs.")]

console = Console()

SAFE_SQLITE = (3, 51, 3)
"""Older ones, from 3.7.0 on, may corrupt a WAL file that two connections write and checkpoint."""

EXIT_CODES = (
    "Exit status: 0 stopped cleanly, 1 crashed, 2 bad configuration, "
    "3 database or broker unreachable at start, 4 drain deadline passed."
)


def settings(kind: type[Settings], *, process: str) -> Settings:
    """Settings of this *kind*, with logs set up; bad ones end the process with status 2."""
    try:
        loaded = load(kind)
    except ConfigurationError as error:
        fail(error)
    logs.configure(loaded, process=process)
    return loaded


def once(work: Callable[[], Awaitable[Result]]) -> Result:
    """The result of *work*; ends the process with the fitting status if it cannot be done."""

    async def awaited() -> Result:
        return await work()

    try:
        return asyncio.run(awaited())
    except (ConfigurationError, Unavailable) as error:
        fail(error)


def fail(error: ConfigurationError | Unavailable) -> NoReturn:
    """Say what is wrong, a line each, and end the process."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    unreachable = isinstance(error, Unavailable)
    raise SystemExit(ExitCode.UNREACHABLE if unreachable else ExitCode.BAD_CONFIGURATION)


def warn_of_sqlite(settings: SharedSettings) -> None:
    """Say so if the database is SQLite, of a version that may corrupt a file with many writers."""
    is_sqlite = settings.database.get_backend_name() == "sqlite"
    if is_sqlite and sqlite3.sqlite_version_info < SAFE_SQLITE:
        version = ".".join(map(str, SAFE_SQLITE))
        print(  # noqa: T201
            f"warning: SQLite {sqlite3.sqlite_version} has the WAL-reset bug, which may corrupt a "
            f"file that several processes write to; it is mended in {version}",
            file=sys.stderr,
        )


def warn_of_uncompared(things: Sequence[str]) -> None:
    """Say of which *things* of the broker it is not known whether they are as declared."""
    for thing in things:
        print(  # noqa: T201
            f"warning: {thing}: exists, but its arguments could not be compared, since the "
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
    """Print a table with a heading; *lines* begin with a name."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for line in lines:
        table.add_row(*(Text(shown(value)) for value in line))
    console.print(table)


def shown(value: object) -> str:
    """*value* for people."""
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
    """Print *value* for programs: one line, with durations in fields that end in `_seconds`."""
    print(json.dumps(value, default=_plain))  # noqa: T201 - not to be folded


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value):
        return {_key(field): getattr(value, field.name) for field in fields(value)}
    raise TypeError(type(value).__name__)


def _key(field: "Field[object]") -> str:
    is_duration = field.type in (timedelta, timedelta | None)
    return f"{field.name}_seconds" if is_duration else field.name
