"""
Settings, errors and output of the command lines of both processes.
"""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeAlias, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from outbox.cli.tables import print_table, short
from outbox.database.errors import NO_PRIVILEGE, problem_of, sqlstate
from outbox.errors import ConfigurationError, DatabaseUnavailable, Unavailable
from outbox.runtime import captured, logs
from outbox.runtime.service import ExitCode
from outbox.setting_names import PREFIX
from outbox.settings import (
    DEFAULT_BROKER_URL,
    DEFAULT_DATABASE_URL,
    Settings,
    SharedSettings,
    checked_names,
    load,
)
from outbox.tls_files import expiry_warnings

Result = TypeVar("Result")

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON, for programs.")]

Warnings: TypeAlias = Literal["log", "stderr"]

console = Console(soft_wrap=True)
"""Lines may be longer than a terminal is wide, so that names in them can be copied."""

_DEFAULTS = {
    "database_url": (DEFAULT_DATABASE_URL, ("DATABASE_URL", "POSTGRES_URL", "PGHOST")),
    "broker_url": (DEFAULT_BROKER_URL, ("BROKER_URL", "RABBITMQ_URL", "AMQP_URL")),
}
"""Default servers of settings, and names under which other programs look for them."""
SERVERS = tuple(_DEFAULTS)

SAFE_SQLITE = (3, 51, 3)
"""Versions from 3.7.0 up to this may corrupt a WAL file that two connections write to."""

EXIT_CODES = (
    "Exit status: 0 stopped cleanly, 1 crashed, 2 bad configuration, "
    "3 database or broker unreachable at start, 4 drain deadline passed."
)


def settings(
    kind: type[Settings],
    *,
    process: str,
    warnings: Warnings | None = None,
    servers: Sequence[str] = SERVERS,
) -> Settings:
    """
    Load settings and configure the logs; invalid settings end the process with exit code 2.

    *warnings* says where to write about ignored variables, and defaults of the *servers*.
    """
    try:
        loaded = load(kind)
    except ConfigurationError as error:
        fail(error)
    logs.configure(loaded, process=process)
    captured.capture(loaded.log_level, reports_failures=warnings == "log")
    for problem in setting_warnings(loaded, servers) if warnings else ():
        if warnings == "log":
            logs.get("settings").warning("setting_warning", problem=problem)
        else:
            print(f"warning: {problem}", file=sys.stderr)  # noqa: T201
    return loaded


def setting_warnings(settings: SharedSettings, servers: Sequence[str] = SERVERS) -> list[str]:
    """Return a line for each variable that is ignored, and each of *servers* that is a default."""
    lines = list(checked_names(type(settings)).warnings)
    for field in servers:
        if field not in settings.model_fields_set:
            default, others = _DEFAULTS[field]
            file = Path(default.removeprefix("sqlite:///")).absolute()
            line = f"{PREFIX}{field.upper()}: is not set, so the file {file} is used"
            found = [name for name in others if os.environ.get(name)]
            lines.append(f"{line}; {found[0]} is not read" if found else line)
    return lines


def once(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run *work*, and return its result; an expected error ends the process with its exit code."""

    async def awaited() -> Result:
        return await work()

    try:
        return asyncio.run(awaited())
    except (ConfigurationError, Unavailable) as error:
        fail(error)
    except DBAPIError as error:
        fail(_translated(error))


def _translated(error: DBAPIError) -> ConfigurationError | Unavailable:
    """Return the error that stands for *error*, whose text may quote a row."""
    if sqlstate(error) == NO_PRIVILEGE:
        return ConfigurationError(
            "the database user lacks a privilege: see Rights on Postgres in docs/how-to/run.md"
        )
    return DatabaseUnavailable(problem_of(error))


def fail(error: ConfigurationError | Unavailable) -> NoReturn:
    """Print the problems, one line each, and end the process with exit code 2 or 3."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    unreachable = isinstance(error, Unavailable) and not error.refused
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


def warn(problems: Sequence[str]) -> None:
    """Print *problems* that keep no process from working."""
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)  # noqa: T201


def warn_of_certificates() -> None:
    """Warn of certificates that servers have presented to this process, and that end soon."""
    warn(expiry_warnings(datetime.now(UTC)))


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
        table.add_row(Text(short(name)), Text(shown(value)))
    print_table(console, table)


def show_lines(title: str, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """Print a table with headings; the first column of *lines* is a name."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
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
