"""
Middleware around the calls of handlers, as for tracing, tenants or a transaction of another kind.

    async def tenancy(call: HandlerCall, call_next: CallNext) -> None:
        with tenant(call.messages[0].headers["tenant"]):
            await call_next()

Middleware cannot lose a message: an error of the handler is raised even if middleware catches it,
and a handler that was not called, or twice, or not waited for, is a failed attempt.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

from sqlalchemy.ext.asyncio import AsyncSession

from consumer.message import Message
from outbox.errors import HandlerNotCalledOnce


class CallNext(Protocol):
    """Calls the next middleware, and in the end the handler; to be called once."""

    def __call__(self) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class HandlerCall:
    """
    One call of a handler.

    Args:
        event_type: The type that the handler is registered for.
        messages: The message, or those of a handler of lists.
        session: The session of the handler; None if it has a lease.

    """

    event_type: str
    messages: Sequence[Message[Any]]
    session: AsyncSession | None

    @property
    def message(self) -> Message[Any]:
        """The first message."""
        return self.messages[0]


class Middleware(Protocol):
    """A coroutine function that calls *call_next* once; further parameters are resources."""

    def __call__(
        self, call: HandlerCall, call_next: CallNext, /, *args: Any, **kwargs: Any
    ) -> Awaitable[None]: ...


Function: TypeAlias = Callable[..., Awaitable[Any]]
"""A coroutine function of the application: a handler, middleware, or a hook."""


def around(
    function: Function,
    middleware: Sequence[Function],
    *,
    event_type: str,
    takes_list: bool,
) -> Function:
    """
    *function*, each call of which goes through *middleware*, the first one outermost.

    It returns what *function* returns. *takes_list* says whether the first argument of *function*
    is a list of messages.
    """
    if not middleware:
        return function

    async def through_middleware(argument: Any, *session: AsyncSession) -> Any:
        messages = argument if takes_list else [argument]
        call = HandlerCall(event_type, messages, next(iter(session), None))
        return await _Passage(call, middleware, partial(function, argument, *session)).run()

    return through_middleware


class _Passage:
    """One call on its way through the middleware to the handler."""

    def __init__(
        self, call: HandlerCall, middleware: Sequence[Function], handler: Function
    ) -> None:
        self._call = call
        self._middleware = middleware
        self._handler = handler
        self._calls = 0
        self._has_ended = False
        self._handling: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None
        self._result: Any = None

    async def run(self) -> Any:
        """Return what the handler returns."""
        try:
            await self._step(0)
        finally:
            self._has_ended = True
            await self._end_handler()
        if self._error is not None:
            raise self._error
        if not self._calls:
            raise HandlerNotCalledOnce("middleware has not called call_next")
        return self._result

    async def _step(self, position: int) -> None:
        if position < len(self._middleware):
            await self._middleware[position](self._call, partial(self._step, position + 1))
            return
        self._calls += 1
        if self._calls > 1 or self._has_ended:
            self._error = HandlerNotCalledOnce("middleware has called call_next again or too late")
            raise self._error
        self._handling = asyncio.current_task()
        try:
            self._result = await self._handler()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._handling = None

    async def _end_handler(self) -> None:
        """End a handler that middleware calls in a task and does not wait for: it has failed."""
        if (handling := self._handling) is None:
            return
        handling.cancel()
        await asyncio.wait({handling})
        self._error = HandlerNotCalledOnce("middleware has not waited for call_next")
