"""
The application's own functions that a consumer calls after a failure or a dead letter.

They run beside the work, a few at a time, so that they neither delay nor break the settlement of a
message: an error, a timeout or a full queue of calls is logged and counted, and nothing else.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any, TypeAlias

from consumer.log_fields import fields_of
from consumer.message import Message
from outbox.runtime.log_context import HANDLED

HookFunction: TypeAlias = Callable[[Any], Awaitable[None]]

LONGEST_CALL = timedelta(seconds=10)
MOST_WAITING = 1_000
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """
    A call of a handler failed, and its effects were rolled back.

    Args:
        message: The message; its `attempt` is the number of the attempt that failed.
        error: The exception, with its traceback. Its text may hold health data.
        consumer: The name of the consumer, and *queue* that of its queue.

    """

    message: Message[Any] = field(repr=False)
    error: BaseException = field(repr=False)
    consumer: str
    queue: str


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """
    A message was given up, and a row of `dead_letters` has it.

    Args:
        reason: The code in the row, such as `retries_exhausted`, or that of a `Reject`.
        message: The message; None if it was given up unread, as a malformed or an expired one.
        error: The exception of the last attempt; None if no handler was called.
        message_id: As it was published; None if the message had none. Likewise *type*.
        attempts: The number of attempts that failed.

    """

    reason: str
    message: Message[Any] | None = field(repr=False)
    error: BaseException | None = field(repr=False)
    message_id: str | None
    type: str | None
    attempts: int
    consumer: str
    queue: str


class HookOutcome(StrEnum):
    """How a call of a hook has ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It raised an error, or was cancelled."""
    TIMED_OUT = "timed_out"
    DROPPED = "dropped"
    """It was not made, as too many others waited or the process has ended."""


Ended: TypeAlias = Callable[[str, HookOutcome, BaseException | None], None]
"""Gets the name of a hook, how a call of it has ended, and the error of one that has failed."""


class Hooks:
    """Calls the functions for failures and dead letters; *ended* gets the end of each call."""

    def __init__(
        self,
        on_failure: Sequence[HookFunction] = (),
        on_dead_letter: Sequence[HookFunction] = (),
        *,
        ended: Ended = lambda _hook, _outcome, _error: None,
    ) -> None:
        self._on_failure = on_failure
        self._on_dead_letter = on_dead_letter
        self._ended = ended
        self._waiting: asyncio.Queue[tuple[str, Callable[[], Awaitable[None]]]] = asyncio.Queue(
            MOST_WAITING
        )

    def failed(self, failure: Failure) -> None:
        """Call the functions for *failure* soon."""
        self._put("on_failure", self._on_failure, failure)

    def dead_lettered(self, dead_letter: DeadLettered) -> None:
        """Call the functions for *dead_letter* soon."""
        self._put("on_dead_letter", self._on_dead_letter, dead_letter)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make calls in this block; those that wait at its end have 10 seconds."""
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(self._work()) for _ in range(AT_ONCE)]
            try:
                yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(LONGEST_CALL.total_seconds()):
                        await self.join()
            finally:
                for worker in workers:
                    worker.cancel()
                while not self._waiting.empty():
                    hook, _ = self._waiting.get_nowait()
                    self._ended(hook, HookOutcome.DROPPED, None)

    async def join(self) -> None:
        """Wait until all calls have ended."""
        await self._waiting.join()

    def _put(
        self, hook: str, functions: Sequence[HookFunction], argument: Failure | DeadLettered
    ) -> None:
        for function in functions:
            try:
                self._waiting.put_nowait((hook, partial(_call, function, argument)))
            except asyncio.QueueFull:
                self._ended(hook, HookOutcome.DROPPED, None)

    async def _work(self) -> None:
        while True:
            hook, function = await self._waiting.get()
            try:
                self._ended(hook, *await _ended(function))
            except asyncio.CancelledError as cancelled:
                self._ended(hook, HookOutcome.FAILED, cancelled)
                raise
            finally:
                self._waiting.task_done()


async def _call(function: HookFunction, argument: Failure | DeadLettered) -> None:
    if argument.message is not None:
        # The task of the call has a context of its own, which ends with it.
        HANDLED.set(partial(fields_of, argument.message))
    await function(argument)


async def _ended(
    function: Callable[[], Awaitable[None]],
) -> tuple[HookOutcome, BaseException | None]:
    """How a call of *function* ends, whatever the application raises, and its error."""
    # In a task of its own: what it cancels is not the worker.
    call = asyncio.ensure_future(_caught(function))
    try:
        await asyncio.wait({call}, timeout=LONGEST_CALL.total_seconds())
        if not call.done():
            return HookOutcome.TIMED_OUT, None
        cancelled = asyncio.CancelledError() if call.cancelled() else None
        error = cancelled or call.exception() or call.result()
        return (HookOutcome.FAILED if error else HookOutcome.SUCCEEDED), error
    finally:
        call.cancel()


async def _caught(function: Callable[[], Awaitable[None]]) -> BaseException | None:
    try:
        await function()
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - raised in a task, SystemExit ends the process
        return error
    return None
