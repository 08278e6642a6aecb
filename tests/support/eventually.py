"""
Wait for a condition instead of sleeping for a guessed time.

Invariant: this is the only module of the tests that sleeps.
The condition is checked before the first pause, so a condition that already holds costs no time.
An exception of the condition ends the wait and fails the test; a falsy result is checked again.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

PAUSE_SECONDS = 0.02


@overload
async def eventually(
    condition: Callable[[], Awaitable[T | None]], *, within: float = ..., message: str = ...
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T | None], *, within: float = ..., message: str = ...
) -> T: ...
async def eventually(
    condition: Callable[[], Any],
    *,
    within: float = 10.0,
    message: str = "the condition did not come true",
) -> Any:
    """
    Return the first truthy answer of *condition*, which may be a coroutine function.

    Args:
        within: seconds after which an `AssertionError` shows *message* and the last result.
    """
    last: Any = "no answer yet"
    try:
        async with asyncio.timeout(within) as limit:
            while not (last := await _answer(condition)):  # noqa: ASYNC110  seen from outside
                await asyncio.sleep(PAUSE_SECONDS)
            return last
    except TimeoutError:
        if not limit.expired():  # raised by the condition, not by this deadline
            raise
        raise AssertionError(f"{message} (waited {within:g} s, last answer: {last!r})") from None


async def _answer(condition: Callable[[], Any]) -> Any:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer
