"""
Logs that contain no health data.

This project logs names, ids, counts and codes. For an exception it logs the class, the SQLSTATE
and the place, because drivers quote rows in their texts. `captured` has the messages of libraries,
of the application and of Python.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from outbox.database.errors import reason_of
from outbox.settings import SharedSettings, console_wanted


@contextmanager
def _as_if_not_installed(package: str) -> Iterator[None]:
    """
    Imports of *package* in this block fail, unless it is loaded already; later ones work.

    None among the loaded modules is Python's documented sign that there is no such module.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


# structlog draws tracebacks by rich if that is installed, with the values of all local variables.
# This project logs none, and the import took a twentieth of the memory and of the start.
with _as_if_not_installed("rich"):
    import structlog


def configure(settings: SharedSettings, *, process: str) -> None:
    """Send all logs to standard error, as JSON lines or as coloured text for people."""
    level = getattr(logging, settings.log_level.upper())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console_wanted(settings.log_format)
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


def get(component: str) -> Any:
    """Return a logger whose lines name *component*."""
    return structlog.get_logger(component=component)


def describe(error: BaseException) -> dict[str, str]:
    """Return the loggable parts of *error*: class, SQLSTATE and where it was raised."""
    return {"error": reason_of(error), "at": place(error.__traceback__)}


def place(trace: TracebackType | None) -> str:
    """Return the functions and lines of *trace*, the innermost first; at most four."""
    frames = traceback.extract_tb(trace)
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
