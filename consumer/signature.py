"""
Checks whether a consumer can call a function as a handler, when it is registered.
"""

import inspect
from typing import Any

from outbox.errors import ConfigurationError

WITH_SESSION = ("message", "session")
BATCH = ("messages", "session")
ALONE = ("message",)


def check_function(function: Any, *, parameters: tuple[str, ...]) -> None:
    """
    Raise ConfigurationError unless *function* is a coroutine function of these *parameters*.

    A plain function would take effect before its result is seen to be no coroutine.
    """
    name = getattr(function, "__qualname__", type(function).__name__)
    called = _called(function)
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigurationError(f"{name}: must not be a generator: remove yield")
    if not inspect.iscoroutinefunction(called):
        raise ConfigurationError(f"{name}: must be declared with async def")
    if not _takes(function, len(parameters)):
        raise ConfigurationError(
            f"{name}: must take {len(parameters)} positional arguments: {', '.join(parameters)}"
        )


def _called(function: Any) -> Any:
    """Return the function that runs: without decorators, `functools.partial` and `__call__`."""
    # A decorator that uses functools.wraps may return a plain function around a coroutine one.
    if inspect.iscoroutinefunction(function):
        return function
    inner = inspect.unwrap(function)
    while hasattr(inner, "func"):
        inner = inspect.unwrap(inner.func)
    if inspect.isroutine(inner) or inspect.isclass(inner) or not callable(inner):
        return inner
    return inspect.unwrap(type(inner).__call__)


def _takes(function: Any, number: int) -> bool:
    try:
        inspect.signature(function).bind(*range(number))
    except TypeError:
        return False
    except ValueError:  # a function of a compiled module may have no signature
        return True
    return True
