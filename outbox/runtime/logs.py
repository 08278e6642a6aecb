"""
Logs that contain no health data.

This project logs names, ids, counts and codes. For an exception it logs the class, the SQLSTATE
and the place, because drivers quote rows in their texts; a developer can have the traceback, with
MQ_LOG_TRACEBACKS. `captured` has the messages of libraries, of the application and of Python.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, TextIO, TypeAlias

from outbox.database.errors import reason_of
from outbox.runtime import log_context, redacted_loggers
from outbox.settings import SharedSettings


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

Line: TypeAlias = MutableMapping[str, Any]

_own: dict[str, Any] = {}
"""Arguments of `wrap_logger` for the loggers of this project, once they are configured."""

_tracebacks = False

_OURS = ("outbox.", "consumer.", "relay.")


def configure(settings: SharedSettings, *, process: str) -> None:
    """
    Send all logs to standard error, as JSON lines or as text for people.

    An application that configures structlog itself changes only its own loggers.
    """
    global _tracebacks  # noqa: PLW0603 - one log per process
    _tracebacks = settings.log_tracebacks
    redacted_loggers.add(settings.redacted_loggers)
    log_context.bind(process=process)
    level = getattr(logging, settings.log_level.upper())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=is_coloured(os.environ, is_terminal=sys.stderr.isatty()),
            exception_formatter=structlog.dev.plain_traceback,
        )
        if _is_for_people(settings.log_format)
        else structlog.processors.JSONRenderer()
    )
    chain: dict[str, Any] = {
        "processors": [
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _describe_exception,
            structlog.processors.StackInfoRenderer(),
            _name_or_redact,
            log_context.add_log_context,
            renderer,
        ],
        "wrapper_class": structlog.make_filtering_bound_logger(level),
        "cache_logger_on_first_use": True,
    }
    structlog.configure(**chain, logger_factory=partial(_NamedLogger, sys.stderr))
    _own.update(chain, logger=structlog.PrintLogger(sys.stderr))


def _is_for_people(log_format: str) -> bool:
    """Return whether logs are text for people rather than JSON."""
    return log_format == "console" or (
        log_format == "auto" and sys.stderr.isatty() and "CI" not in os.environ
    )


def is_coloured(variables: Mapping[str, str], *, is_terminal: bool) -> bool:
    """
    Return whether text for people has colours, as NO_COLOR and FORCE_COLOR of *variables* say.

    Each counts unless it is empty, and NO_COLOR first. structlog reads neither.
    """
    return not variables.get("NO_COLOR") and (is_terminal or bool(variables.get("FORCE_COLOR")))


def get(component: str) -> Any:
    """Return a logger whose lines name *component*."""
    # Before `configure`, as in tests, structlog decides.
    return structlog.wrap_logger(**(_own or {"logger": None}), component=component)


def has_tracebacks() -> bool:
    """Whether lines have tracebacks, by MQ_LOG_TRACEBACKS."""
    return _tracebacks


def describe(error: BaseException) -> dict[str, str]:
    """
    Return the loggable parts of *error*: class, SQLSTATE and where it was raised.

    With MQ_LOG_TRACEBACKS also the traceback, with the texts of the error and of its causes.
    """
    parts = {"error": reason_of(error), "at": place(error.__traceback__)}
    if _tracebacks:
        trace = _from_application(error.__traceback__)
        lines = traceback.format_exception(type(error), error, trace)
        parts["exception"] = "".join(lines).rstrip()
    return parts


def place(trace: TracebackType | None) -> str:
    """Return the functions and lines of *trace*, the innermost first; at most four."""
    frames = traceback.extract_tb(trace)
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))


def _from_application(trace: TracebackType | None) -> TracebackType | None:
    """Return *trace* without the frames of this project that precede those of the application."""
    rest = trace
    while rest is not None and rest.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        rest = rest.tb_next
    return rest or trace


class _NamedLogger(structlog.PrintLogger):
    """The logger behind `structlog.get_logger(name)` of an application."""

    def __init__(self, file: TextIO, name: object = None, *_: object) -> None:
        super().__init__(file)
        self.name = name if isinstance(name, str) else None


def _describe_exception(_logger: object, _method: str, line: Line) -> Line:
    """Replace the exception of a *line* by its loggable parts."""
    given = line.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else None
    if error is None and given:
        error = given[1] if isinstance(given, tuple) else sys.exc_info()[1]
    if error is not None:
        for name, value in describe(error).items():
            line.setdefault(name, value)
    return line


def _name_or_redact(logger: object, _method: str, line: Line) -> Line:
    """Add the name of an application's logger to a *line*; if it is redacted, drop the values."""
    name = getattr(logger, "name", None)
    if name is None:
        return line
    if redacted_loggers.is_redacted(name):
        kept = ("level", "timestamp", "error", "at")
        of_line = {key: line[key] for key in kept if key in line}
        # Its event is a constant by convention, but nothing checks that.
        return {"event": "library_message", "component": name, **of_line}
    line.setdefault("component", name)
    return line
