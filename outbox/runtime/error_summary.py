"""
The class and the place of an error, the only parts of it that are stored: pure.

    class   `KeyError`, `IntegrityError 23505`, `ExceptionGroup of KeyError`
    place   `myapp/etl.py:42 in load`, the innermost line of the application

Neither has the text of the error, because texts quote values, nor the directory of the host. The
frames of this project, of Python and of installed packages do not count, but those of the package
that the handler itself is part of do, wherever that is installed.
"""

import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeAlias

from outbox.database.errors import firsts_of, reason_of

UNKNOWN_PLACE = "unknown"
"""The place of an error that has no traceback."""

_LONGEST_CLASS = 120
_LONGEST_FILE = 120
_LONGEST_FUNCTION = 60
_MOST_CAUSES = 10
_OURS = frozenset({"outbox", "consumer", "relay", "outbox_relay", "outbox_testing"})
_INSTALLED = re.compile(r"[\\/](?:site|dist)-packages[\\/]")
_SEPARATOR = re.compile(r"[\\/]")
_NO_FILE = "<string>"

_Step: TypeAlias = tuple[FrameType, int | None]


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """
    The class of an error, with its SQLSTATE if it has one, and the line that raised it.
    """

    error_class: str
    place: str


def summary_of(error: BaseException, *, package: str | None = None) -> ErrorSummary:
    """Return class and place of *error*; *package* is the top-level one of the handler."""
    return ErrorSummary(_printable(reason_of(error))[:_LONGEST_CLASS], place_of(error, package))


def place_of(error: BaseException, package: str | None = None) -> str:
    """
    Return the innermost line of the application that *error* passed.

    Of a group, it is that of its first error. If the application has no line in the traceback, as
    after a timeout, the causes are searched. Without any, it is the innermost line of all.
    """
    traces = [_steps(each) for each in _with_causes(error)]
    for has_file in (True, False):
        for steps in traces:
            for step in steps:
                if _has_file(step[0]) is has_file and _is_application(step[0], package):
                    return _shown(*step)
    return next((_shown(*steps[0]) for steps in traces if steps), UNKNOWN_PLACE)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """*error* and some of its causes; a group comes after the first of its errors."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen and len(seen) < _MOST_CAUSES:
        seen.add(id(cause))
        yield from reversed(firsts_of(cause))
        context = None if _own(cause, "__suppress_context__") else _own(cause, "__context__")
        cause = _own(cause, "__cause__") or context


def _steps(error: BaseException) -> Sequence[_Step]:
    """The frames and lines of the traceback of *error*, the innermost first."""
    return list(traceback.walk_tb(_own(error, "__traceback__")))[::-1]


def _own(error: BaseException, name: str) -> Any:
    """The attribute as Python reads it: a class may have another one of this name."""
    return BaseException.__dict__[name].__get__(error)


def _is_application(frame: FrameType, package: str | None) -> bool:
    top = _module(frame.f_globals).partition(".")[0]
    if package is not None and top == package:
        return True
    if not top or top in _OURS or top in sys.stdlib_module_names:
        return False
    # The code of an extension module has a path of its own, in which the directory is missing, and
    # code that a library makes has none: then the module and the package say where they are.
    package_file = getattr(sys.modules.get(top), "__file__", None)
    files = (frame.f_code.co_filename, frame.f_globals.get("__file__"), package_file)
    return not any(isinstance(file, str) and _INSTALLED.search(file) for file in files)


def _has_file(frame: FrameType) -> bool:
    """Whether the code was read from a file, and not made from a text by the program."""
    return not frame.f_code.co_filename.startswith("<")


def _shown(frame: FrameType, line: int | None) -> str:
    file = _printable(_file(frame))[-_LONGEST_FILE:]
    function = _printable(frame.f_code.co_name)[:_LONGEST_FUNCTION]
    return f"{file}:{line or '?'} in {function}"


def _file(frame: FrameType) -> str:
    """The file of *frame* by the name of its module, such as `myapp/etl.py`."""
    if not _has_file(frame):
        # The program has chosen this name, perhaps with a part of the text.
        return _NO_FILE
    base = _SEPARATOR.split(frame.f_code.co_filename)[-1]
    module = _module(frame.f_globals)
    if module == "__main__":
        parent = getattr(frame.f_globals.get("__spec__"), "parent", None)
        module = f"{parent}.__main__" if isinstance(parent, str) and parent else ""
    parents = module.split(".")
    if not base.startswith("__init__."):
        parents = parents[:-1]
    return "/".join([*filter(None, parents), base])


def _module(variables: Mapping[str, Any]) -> str:
    name = variables.get("__name__")
    return name if isinstance(name, str) else ""


def _printable(text: str) -> str:
    """*text* without signs that a database or a terminal does not take."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
