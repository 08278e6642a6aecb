"""
Calls that have to be awaited, and were not yet: an assertion among them has asserted nothing.
"""

from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, TypeVar

Result = TypeVar("Result")

UNAWAITED: dict[int, str] = {}
"""The names of the functions that were called and not awaited; the plugin of pytest reads it."""

_NUMBERS = count(1)


def to_await(
    name: str, begin: Callable[[], Coroutine[Any, Any, Result]]
) -> Coroutine[Any, Any, Result]:
    """The coroutine of a call of the function *name*, which does *begin* once it is awaited."""
    number = next(_NUMBERS)

    async def awaited() -> Result:
        __tracebackhide__ = True
        UNAWAITED.pop(number, None)
        return await begin()

    waiting: Coroutine[Any, Any, Result] = awaited()
    waiting.__qualname__ = name  # type: ignore[attr-defined] # Python's warning shows it
    UNAWAITED[number] = name
    return waiting
