"""
Never run, only type-checked: the mistakes of users, each of which both type checkers have to find.

An ignored error that is none is an error of theirs, so a mistake that is not found fails.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import ClassVar

from pydantic import BaseModel
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import outbox
from consumer import (
    CallNext,
    CircuitBreaker,
    Consumer,
    DeadLettered,
    Failure,
    HandlerCall,
    Message,
    OnLeaseExpired,
    RateLimit,
    Reject,
    Retry,
    RetrySchedule,
)
from outbox import Event
from tests.typing.api import Clock, Move, Reading, alert, by_annotation, calibrate, etl, readings

minute = timedelta(minutes=1)


class Numbered(BaseModel):
    event_type: ClassVar[int] = 5


async def wrong_calls(
    reading: Message[Reading], moved: Message[Move], session: AsyncSession
) -> None:
    await calibrate(reading)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await calibrate(reading, session)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await calibrate(moved, session, Clock())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await calibrate(session, reading, Clock())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await calibrate(reading, session, "clock")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await calibrate(reading, session, clok=Clock())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await readings(reading, session)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await readings([moved], session)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await alert(reading, session)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await by_annotation(reading, session)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await by_annotation(message=reading, session=session, clock="clock")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await by_annotation(message=moved, session=session, clock=Clock())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    value: str = reading.payload.value  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    reading.payload.ward  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    reading.payload = Reading(value=1, unit="mg/dl")  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    del value


# The function is no handler.


@etl.on("is.not.async")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def not_async(message: Message[object], session: AsyncSession) -> None:
    del message, session


@etl.on("has.no.session")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def no_session(message: Message[object]) -> None:
    del message


@etl.on("takes.another.session")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def another_session(message: Message[object], session: Session) -> None:
    del message, session


@etl.on("takes.the.payload")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def takes_payload(reading: Reading, session: AsyncSession) -> None:
    del reading, session


@etl.on  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
async def without_parentheses(message: Message[Reading], session: AsyncSession) -> None:
    del message, session


@etl.on_batch("takes.one", size=2)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def takes_one(message: Message[object], session: AsyncSession) -> None:
    del message, session


@etl.on("takes.a.list")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def takes_list(messages: Sequence[Message[object]], session: AsyncSession) -> None:
    del messages, session


# The event and the payload do not agree.


@etl.on(Reading)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def another_model(message: Message[Move], session: AsyncSession) -> None:
    del message, session


@etl.on("ward.moved", model=Move)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def another_option(message: Message[Reading], session: AsyncSession) -> None:
    del message, session


@etl.on_batch(Reading, size=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def another_model_of_lists(messages: Sequence[Message[Move]], session: AsyncSession) -> None:
    del messages, session


@etl.on_batch("ward.moved", model=Move, size=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def another_option_of_lists(
    messages: Sequence[Message[Reading]], session: AsyncSession
) -> None:
    del messages, session


@etl.on_leased(Reading)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def another_model_with_lease(message: Message[Move]) -> None:
    del message


@etl.on_leased("ward.moved", model=Move)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def another_option_with_lease(message: Message[Reading]) -> None:
    del message


@etl.on(Move)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]
async def no_event_type(message: Message[Move], session: AsyncSession) -> None:
    del message, session


@etl.on(Numbered)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]
async def no_text(message: Message[Numbered], session: AsyncSession) -> None:
    del message, session


@etl.on("not.a.model", model=dict)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]
async def no_model(message: Message[dict[str, int]], session: AsyncSession) -> None:
    del message, session


@etl.on(Reading, model=Move)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType, reportCallIssue]
async def two_models(message: Message[Reading], session: AsyncSession) -> None:
    del message, session


# The options are wrong.


@etl.on_batch("has.no.size")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue]
async def no_size(messages: Sequence[Message[object]], session: AsyncSession) -> None:
    del messages, session


@etl.on("has.strange.options", timeout=5)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType, reportCallIssue]
async def strange_options(message: Message[object], session: AsyncSession) -> None:
    del message, session


@etl.on(Reading, retry=[1, 2])  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType, reportCallIssue]
async def strange_retry(message: Message[Reading], session: AsyncSession) -> None:
    del message, session


@etl.on("has.an.unknown.option", retries=5)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue]
async def unknown_option(message: Message[object], session: AsyncSession) -> None:
    del message, session


@etl.on_leased("has.batches", batch_size=5)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue]
async def leased_batches(message: Message[object]) -> None:
    del message


@etl.on_leased(Reading, on_expired="retry")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType, reportCallIssue]
async def expires_by_text(message: Message[Reading]) -> None:
    del message


def wrong_values(reading: Reading, move: Move) -> None:
    Retry(minute)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Retry(after=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Reject(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RateLimit("100")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RateLimit(100, per=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CircuitBreaker(failures="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetrySchedule([1, 2], 3)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    OnLeaseExpired.IGNORE  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    Event.of(move)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Event.of(reading, key="k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Event.of(reading, ordering_key=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Event.of("reading")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Event("a", 1, priority=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wrong_events(session: Session, connection: Connection, move: Move) -> None:
    outbox.add(session, move)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    outbox.add(session, "ward.moved")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    outbox.add(session, [Event("a", 1)])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    outbox.add(Event("a", 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    outbox.use_schema(b"mq")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    connection.execute(outbox.insert(move))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Resources, middleware and hooks.


async def no_context() -> Clock:
    return Clock()


async def generator() -> AsyncIterator[Clock]:
    yield Clock()


@contextmanager
def synchronous() -> Iterator[Clock]:
    yield Clock()


@asynccontextmanager
async def with_argument(url: str) -> AsyncIterator[Clock]:
    del url
    yield Clock()


async def without_next(call: HandlerCall) -> None:
    del call


async def of_messages(message: Message[object], call_next: CallNext) -> None:
    del message
    await call_next()


def plain(call: HandlerCall, call_next: CallNext) -> None:
    del call, call_next


Consumer("etl")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Consumer("etl", bindings=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], ordered="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], lifespan=no_context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], lifespan=generator)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], lifespan=synchronous)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], lifespan=with_argument)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], lifespan=Clock())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], middleware=without_next)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], middleware=[without_next])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], middleware=[of_messages])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
Consumer("etl", bindings=["#"], middleware=[plain])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def middleware_with_arguments(call: HandlerCall, call_next: CallNext) -> None:
    await call_next(call)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    call.event_type = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@etl.on_failure  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def failure_of_dead_letters(failure: DeadLettered) -> None:
    del failure


@etl.on_failure  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def plain_failure(failure: Failure) -> None:
    del failure


@etl.on_failure()  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
async def failure_with_parentheses(failure: Failure) -> None:
    del failure


@etl.on_dead_letter  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def dead_letter_of_failures(dead_letter: Failure) -> None:
    del dead_letter


@etl.on_dead_letter  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def no_dead_letter() -> None: ...


@etl.on_dead_letter
async def nullable(dead_letter: DeadLettered) -> None:
    dead_letter.message.payload  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
