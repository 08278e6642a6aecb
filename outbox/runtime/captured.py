"""
Messages that reach the log through Python: loggers, warnings, uncaught errors, printed lines.

Drivers and clients quote rows and whole messages, so their records are logged without arguments.
The text of the application is its own, and is logged unchanged. A line about an exception has its
class, its SQLSTATE and its place, for every logger; its text only with MQ_LOG_TRACEBACKS.
"""

import asyncio
import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from outbox.runtime import logs
from outbox.runtime.redacted_loggers import LIBRARIES, is_redacted, package_of

# They log each attempt to connect as an error. The process itself reports a lost server, and
# whether it waits for it or ends.
_RECONNECTING = frozenset({"aio_pika", "aiormq"})

_PLACEHOLDER = re.compile(r"%(?:\([^)]*\))?[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]")

_LEVELS = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)

_OF_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OF_LINE = frozenset({"event", "level", "timestamp", "process", "component"})


def capture(log_level: str, *, reports_failures: bool = True) -> None:
    """
    Log the records of all loggers from *log_level* on, and Python's warnings.

    A command prints why it cannot connect, so without *reports_failures* its clients do not.
    """
    level = getattr(logging, log_level.upper())
    root = logging.getLogger()
    root.handlers = [_Records()]
    root.setLevel(level)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    if not reports_failures:
        for name in _RECONNECTING:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # Else a record that cannot be formatted is printed with its arguments.
    logging.raiseExceptions = False
    warnings.showwarning = _show_warning


@contextmanager
def python_errors_logged() -> Iterator[None]:
    """
    Log what Python would print on standard error while the block runs.

    That are errors that end a thread or are raised in a destructor, and lines that the application
    prints. A process that the operating system ends prints through `faulthandler` as before.
    """
    before = sys.excepthook, threading.excepthook, sys.unraisablehook, sys.stderr
    sys.excepthook = lambda _kind, error, _trace: _uncaught(error)
    threading.excepthook = lambda args: _uncaught(args.exc_value)
    sys.unraisablehook = lambda args: _uncaught(args.exc_value)
    sys.stderr = _Lines(before[3])
    try:
        yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook, sys.stderr = before


def on_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that no task awaits, as the exception handler of an event loop."""
    _uncaught(context.get("exception"), text=_without_values(str(context.get("message", ""))))


def _uncaught(error: BaseException | None, **text: str | None) -> None:
    if isinstance(error, SystemExit):
        return
    described = {} if error is None else logs.describe(error)
    logs.get("python").error("uncaught_error", **text, **described)


class _Records(logging.Handler):
    """Logs the records of loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        library = record.name.partition(".")[0]
        error = record.exc_info[1] if record.exc_info else None
        described = {} if error is None else logs.describe(error)
        level = next((each for each in _LEVELS if each <= record.levelno), logging.DEBUG)
        if not is_redacted(record.name):
            self._log(level, record, described)
            return
        described.pop("exception", None)
        if library in _RECONNECTING:
            level = min(level, logging.WARNING)
        logs.get(record.name).log(
            level,
            "library_message",
            text=_template(record),
            function=record.funcName,
            line=record.lineno,
            **described,
        )

    @staticmethod
    def _log(level: int, record: logging.LogRecord, described: dict[str, str]) -> None:
        text = _text(record)
        try:
            logs.get(record.name).log(level, text, **_extra(record, described))
        except Exception:  # noqa: BLE001 - a value whose repr fails, which must not fail a handler
            logs.get(record.name).log(level, text, **described)


def _text(record: logging.LogRecord) -> str:
    """Return the text of a *record* of the application, or its template if they do not fit."""
    if isinstance(record.msg, Mapping):
        return str(record.msg.get("event", ""))
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - of the repr of any object, as of a row without its session
        return record.msg if isinstance(record.msg, str) else type(record.msg).__name__


def _extra(record: logging.LogRecord, described: dict[str, str]) -> dict[str, Any]:
    """
    Return the values that the application gave with `extra`, and those *described*.

    A name that a line has for something else gets the prefix `extra_`.
    """
    taken = _OF_LINE | described.keys()
    extra: dict[str, Any] = {}
    for name in sorted(vars(record).keys() - _OF_RECORD):
        if not name.startswith("_"):
            extra[f"extra_{name}" if name in taken else name] = vars(record)[name]
    if isinstance(record.msg, Mapping):  # a line of a structlog that logs through Python
        extra |= {name: value for name, value in record.msg.items() if name not in _OF_LINE}
    if not logs.has_tracebacks():
        # That which a structlog of the application has made, with the text of the error.
        extra.pop("exception", None)
    if record.stack_info:
        extra["stack"] = record.stack_info
    return {**extra, **described}


def _template(record: logging.LogRecord) -> str | None:
    """Return the text of a *record* without values; None if it may have some in it."""
    if record.args:
        return _PLACEHOLDER.sub("…", str(record.msg))
    return _without_values(str(record.msg)) if record.name == "asyncio" else None


def _without_values(text: str) -> str | None:
    """Return the beginning of a *text* of asyncio, in which values follow in later lines."""
    words = text.splitlines()[0] if text else ""
    before, callback, _with_arguments = words.partition(" callback ")
    return before + callback.rstrip() if callback else re.split(r"[(<{'\"]", words)[0] or None


def _show_warning(  # noqa: PLR0917 - the signature of Python
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file, line
    is_of_library = is_redacted(category.__module__) or is_redacted(package_of(filename))
    logs.get("python").warning(
        "python_warning",
        category=category.__name__,
        at=f"{Path(filename).name}:{lineno}",
        **({} if is_of_library else {"text": str(message)}),
    )


class _Lines(io.TextIOBase):
    """A standard error that logs each line that is written to it; see *stream* for the rest."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = threading.local()

    def write(self, text: str) -> int:
        """Log the lines of *text*; the last one once it has ended."""
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest
        for line in lines:
            if line.strip():
                logs.get("stderr").warning(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding
