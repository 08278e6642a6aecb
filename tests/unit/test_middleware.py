"""
Middleware around the calls of handlers, which can neither lose nor repeat a message.
"""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from consumer import CallNext, Consumer, HandlerCall, Message
from consumer.bound import bind
from outbox.errors import ConfigurationError, HandlerNotCalledOnce

TENANT: ContextVar[str] = ContextVar("TENANT", default="none")


def called(*middleware: Any, kind: str = "on", fails: Exception | None = None) -> Any:
    """Give the call of a handler behind *middleware*, and what happened in it."""
    told: list[Any] = []
    etl = Consumer("etl", bindings=["#"], middleware=middleware)

    async def handle(message: Any, session: Any = None) -> None:
        told.append(("handled", message, session, TENANT.get()))
        if fails:
            raise fails

    options = {"on": {}, "on_batch": {"size": 2}, "on_leased": {}}[kind]
    getattr(etl, kind)("a", **options)(handle)
    return bind(etl).handlers["a"].call, told


async def test_middleware_surrounds_the_handler_in_its_order():
    told: list[str] = []

    async def outer(call: HandlerCall, call_next: CallNext) -> None:
        told.append("outer")
        token = TENANT.set("ward")
        await call_next()
        TENANT.reset(token)
        told.append("outer again")

    async def inner(call: HandlerCall, call_next: CallNext) -> None:
        told.append(f"inner {call.event_type} {call.messages} {call.session}")
        await call_next()

    call, handled = called(outer, inner)
    await call(["the message"], "session")

    assert told == ["outer", "inner a [['the message']] session", "outer again"]
    assert handled == [("handled", ["the message"], "session", "ward")]


async def test_middleware_sees_the_messages_of_a_list_and_no_session_of_a_leased_handler():
    seen: list[HandlerCall] = []

    async def look(call: HandlerCall, call_next: CallNext) -> None:
        seen.append(call)
        await call_next()

    await called(look, kind="on_batch")[0](["one", "two"], "session")
    await called(look, kind="on_leased")[0]("one")

    assert [(each.messages, each.session) for each in seen] == [
        (["one", "two"], "session"),
        (["one"], None),
    ]


async def test_middleware_that_does_not_call_the_handler_is_a_failure():
    async def forgets(call: HandlerCall, call_next: CallNext) -> None: ...

    call, handled = called(forgets)
    with pytest.raises(HandlerNotCalledOnce):
        await call("message", "session")
    assert handled == []


async def test_middleware_that_calls_twice_or_too_late_is_a_failure_and_calls_once():
    late: list[CallNext] = []

    async def twice(call: HandlerCall, call_next: CallNext) -> None:
        await call_next()
        try:
            await call_next()
        except HandlerNotCalledOnce:
            late.append(call_next)

    call, handled = called(twice)
    with pytest.raises(HandlerNotCalledOnce):
        await call("message", "session")
    with pytest.raises(HandlerNotCalledOnce):
        await late[0]()
    assert len(handled) == 1


async def returns_early(call: HandlerCall, call_next: CallNext) -> None:
    await asyncio.wait({asyncio.ensure_future(call_next())}, timeout=0)


async def fails_early(call: HandlerCall, call_next: CallNext) -> None:
    async def fails() -> None:
        raise HandlerNotCalledOnce

    await asyncio.gather(call_next(), fails())


@pytest.mark.parametrize("middleware", [returns_early, fails_early])
async def test_a_handler_that_middleware_does_not_wait_for_has_failed_and_ends(middleware):
    told: list[str] = []
    etl = Consumer("etl", bindings=["#"], middleware=[middleware])

    @etl.on("a")
    async def handle(message: Message[Any], session: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("ended")

    with pytest.raises(HandlerNotCalledOnce):
        await bind(etl).handlers["a"].call("message", "session")
    assert told == ["ended"]


async def test_an_error_of_the_handler_is_raised_even_if_middleware_catches_it():
    async def catches(call: HandlerCall, call_next: CallNext) -> None:
        try:
            await call_next()
        except ValueError:
            return

    error = ValueError("theirs")
    with pytest.raises(ValueError, match="theirs") as raised:
        await called(catches, fails=error)[0]("message", "session")
    assert raised.value is error


async def test_middleware_may_raise_another_error():
    async def translates(call: HandlerCall, call_next: CallNext) -> None:
        try:
            await call_next()
        except ValueError as error:
            raise LookupError from error

    with pytest.raises(LookupError):
        await called(translates, fails=ValueError("theirs"))[0]("message", "session")


async def test_a_cancellation_reaches_the_caller_through_middleware():
    async def catches(call: HandlerCall, call_next: CallNext) -> None:
        try:
            await call_next()
        except asyncio.CancelledError:
            return

    with pytest.raises(asyncio.CancelledError):
        await called(catches, fails=asyncio.CancelledError())[0]("message", "session")  # type: ignore[arg-type]


@pytest.mark.parametrize("middleware", [print, 5, TENANT.get])
def test_a_function_that_cannot_be_middleware_is_refused(middleware):
    with pytest.raises(ConfigurationError, match=r"^consumer etl: middleware "):
        Consumer("etl", bindings=["#"], middleware=[middleware])


async def test_without_middleware_the_handler_is_called_itself():
    etl = Consumer("etl", bindings=["#"])

    async def handle(message: Message[Any], session: object) -> None: ...

    etl.on("a")(handle)

    assert bind(etl).handlers["a"].call is handle
