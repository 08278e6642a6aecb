"""
Errors and output of the command lines of both processes.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from datetime import timedelta
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from outbox.cli.start import fail
from outbox.cli.tables import print_table, short
from outbox.database.errors import translated
from outbox.errors import ConfigurationError, Unavailable

Result = TypeVar("Result")

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON, for programs.")]

console = Console(soft_wrap=True)
"""Lines may be longer than a terminal is wide, so that names in them can be copied."""

EXIT_CODES = (
    "Exit status: 0 stopped cleanly, 1 crashed, 2 bad configuration, "
    "3 database or broker unreachable at start, 4 drain deadline passed, 5 approval needed, "
    "6 crash limit."
)


def once(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run *work*, and return its result; an expected error ends the process with its exit code."""

    async def awaited() -> Result:
        return await work()

    try:
        return asyncio.run(awaited())
    except (ConfigurationError, Unavailable) as error:
        fail(error)
    except DBAPIError as error:
        fail(translated(error))


def warn(problems: Sequence[str]) -> None:
    """Print *problems* that keep no process from working."""
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)  # noqa: T201


def show(title: str, rows: dict[str, object]) -> None:
    """Print a table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(Text(short(name)), Text(shown(value)))
    print_table(console, table)


def show_lines(
    title: str, columns: Sequence[str], lines: Sequence[Sequence[object]], *, names: int = 1
) -> None:
    """Print a table with headings; the first columns of *lines*, as many as *names*, are text."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < names else "right")
    for line in lines:
        table.add_row(*(Text(shown(value)) for value in line))
    print_table(console, table)


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
            return short(str(value))


def print_json(value: object) -> None:
    """Print *value* as one line of JSON; names of durations end in `_seconds`."""
    print(json.dumps(value, default=_plain))  # noqa: T201 - rich would fold it


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):  # SQLite stores blobs in columns of text too
        return value.decode(errors="backslashreplace")
    if is_dataclass(value):
        return {_key(field): getattr(value, field.name) for field in fields(value)}
    raise TypeError(type(value).__name__)


def _key(field: "Field[object]") -> str:
    is_duration = field.type in (timedelta, timedelta | None)
    return f"{field.name}_seconds" if is_duration else field.name
