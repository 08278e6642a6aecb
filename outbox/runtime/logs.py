"""
Logs that contain no health data.

This project logs names, ids, counts and codes. For an exception it logs the class, the SQLSTATE
and the place; for a log record of another library only its origin. Drivers quote rows in their
texts, and AMQP clients quote whole messages.
"""

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

import structlog

from outbox.database.errors import reason_of
from outbox.settings import SharedSettings, console_wanted


def configure(settings: SharedSettings, *, process: str) -> None:
    """Send all logs to standard error, as JSON lines or as coloured text for people."""
    level = getattr(logging, settings.log_level.upper())
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
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
    root = logging.getLogger()
    root.handlers = [_LibraryRecords()]
    root.setLevel(max(level, logging.WARNING))


def get(component: str) -> Any:
    """Return a logger whose lines name *component*."""
    return structlog.get_logger(component=component)


def describe(error: BaseException) -> dict[str, str]:
    """Return the loggable parts of *error*: class, SQLSTATE and where it was raised."""
    return {"error": reason_of(error), "at": _place(error.__traceback__)}


def _place(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))


class _LibraryRecords(logging.Handler):
    """Logs records of other libraries without their text and arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        get(record.name).log(
            record.levelno,
            "library_message",
            function=record.funcName,
            line=record.lineno,
            **({"error": type(error).__name__} if error else {}),
        )
