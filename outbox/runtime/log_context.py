"""
Fields that every log line gets: those of the process, and those of the message that is handled.

The fields of a message are built only when a line is logged. A handling itself sets and resets one
variable, which tasks and `asyncio.to_thread` copy.
"""

from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, TypeAlias

Fields: TypeAlias = Mapping[str, object]

HANDLED: ContextVar[Callable[[], Fields] | None] = ContextVar("handled", default=None)
"""Returns the fields of the message, or messages, whose handler is called in this context."""

_of_process: dict[str, object] = {}


def bind(**fields: object) -> None:
    """Add *fields* to every line that this process logs from now on."""
    _of_process.update(fields)


def add_log_context(
    logger: object, method: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """
    Add the fields of the process, and of the message that is handled, to a log line.

    It is a processor of structlog, for applications that configure structlog themselves. A field
    that the line has already keeps its value.
    """
    del logger, method
    handled = HANDLED.get()
    if handled is not None:
        for name, value in handled().items():
            line.setdefault(name, value)
    for name, value in _of_process.items():
        line.setdefault(name, value)
    return line
