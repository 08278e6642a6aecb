"""
Exceptions and the outcomes of a publish, from their classes.
"""

import inspect
from collections.abc import Iterator

from consumer import outcomes
from outbox import errors
from outbox.errors import ApprovalNeeded, ConfigurationError, OutboxError, Unavailable
from outbox.runtime.service import ExitCode
from outbox.transports.base import Outcome
from tests.reference import markdown
from tests.reference.markdown import code, one_line
from tests.reference.source import docstrings_below

MODULES = {errors.__name__, outcomes.__name__}


def tree() -> str:
    """The exceptions as a tree."""
    return "```\n" + "\n".join(_tree(OutboxError)) + "\n```"


def exceptions() -> str:
    """The exceptions with their meanings and exit codes."""
    return markdown.table(["exception", "meaning", "exit code"], _exceptions(OutboxError))


def publish_outcomes() -> str:
    """The outcomes of a publish."""
    meanings = docstrings_below("outbox/transports/base.py", "Outcome")
    rows = [[code(outcome.value), meanings[outcome.name]] for outcome in Outcome]
    return markdown.table(["outcome", "meaning"], rows)


def _children(kind: type[BaseException]) -> list[type[BaseException]]:
    children = [one for one in kind.__subclasses__() if one.__module__ in MODULES]
    return sorted(children, key=_place)


def _place(kind: type[BaseException]) -> tuple[bool, str, int]:
    """The errors of `outbox` first, in the order of the file."""
    is_outbox = kind.__module__ == OutboxError.__module__
    return not is_outbox, kind.__module__, inspect.getsourcelines(kind)[1]


def _tree(kind: type[BaseException], before: str = "") -> Iterator[str]:
    if not before:
        yield kind.__name__
    children = _children(kind)
    for child in children:
        is_last = child is children[-1]
        yield f"{before}{'└── ' if is_last else '├── '}{child.__name__}"
        yield from _tree(child, before + ("    " if is_last else "│   "))


def _exceptions(kind: type[BaseException]) -> Iterator[list[str]]:
    yield [code(kind.__name__), one_line(kind.__doc__), _exit_code(kind)]
    for child in _children(kind):
        yield from _exceptions(child)


def _exit_code(kind: type[BaseException]) -> str:
    if issubclass(kind, ConfigurationError):
        return str(ExitCode.BAD_CONFIGURATION.value)
    if issubclass(kind, ApprovalNeeded):
        return str(ExitCode.APPROVAL_NEEDED.value)
    if issubclass(kind, Unavailable):
        return f"{ExitCode.UNREACHABLE.value}, at start only"
    return "–"
