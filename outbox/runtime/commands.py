"""
What the command lines of both processes share.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.table import Table

from outbox.errors import ConfigurationError, Unavailable
from outbox.runtime import logs
from outbox.runtime.service import ExitCode
from outbox.settings import Settings, load

Result = TypeVar("Result")

console = Console()

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


def show(title: str, rows: dict[str, object]) -> None:
    """Print a table of two columns."""
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
