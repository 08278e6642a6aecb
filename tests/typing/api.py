"""
Never run, only type-checked: what a user's code looks like to a type checker.

What a type checker has to refuse is in `mistakes`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Literal

from alembic.runtime.environment import EnvironmentContext
from pydantic import BaseModel
from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from structlog.typing import Processor

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
    add_log_context,
)
from outbox import Event, HealthDataMessage


class Clock:
    """A resource."""


@dataclass
class Resources:
    clock: Clock


class Reading(BaseModel):
    event_type: ClassVar[str] = "glucose.reading.taken"
    value: float
    unit: Literal["mmol/l", "mg/dl"]


class Move(BaseModel):
    ward: str


@dataclass
class Vital:
    pulse: int


@asynccontextmanager
async def resources() -> AsyncIterator[Resources]:
    yield Resources(Clock())


async def tracing(call: HandlerCall, call_next: CallNext) -> None:
    name: str = call.event_type
    del name
    await call_next()


async def timing(call: HandlerCall, call_next: CallNext, clock: Clock) -> None:
    del call, clock
    await call_next()


etl = Consumer(
    "etl", bindings=["health.processing.#"], lifespan=resources, middleware=[tracing, timing]
)
ordered = Consumer("ordered", bindings=["#"], queue="mine", ordered=True)
minute = timedelta(minutes=1)
processor: Processor = add_log_context


@etl.on("health.data.uploaded", model=HealthDataMessage)
async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None:
    size: int = message.payload.file_size_bytes
    outbox.add(session, Event("health.data.loaded", {"size": size}))


@etl.on("anything.else")
async def other(message: Message[dict[str, int]], session: AsyncSession) -> None:
    del message, session


@etl.on(
    "every.option",
    batch_size=100,
    model=None,
    filter=lambda message: message.payload["kind"] == "meter",
    timeout=minute,
    rate_limit=RateLimit(100, per=minute),
    circuit_breaker=CircuitBreaker(failures=3, pause=minute),
    retry=RetrySchedule.exponential(minute, 60 * minute, max_retries=9, jitter=True),
)
async def with_options(message: Message[dict[str, str]], session: AsyncSession) -> None:
    del session
    if message.attempt > 1:
        raise Retry(after=minute)
    raise Reject("unknown_device")


@etl.on_batch("many.at.once", size=500, model=HealthDataMessage, timeout=minute)
async def load_many(messages: Sequence[Message[HealthDataMessage]], session: AsyncSession) -> None:
    del session
    sizes: list[int] = [message.payload.file_size_bytes for message in messages]
    del sizes


@etl.on_leased(
    "by.mail",
    lease=minute,
    on_expired=OnLeaseExpired.DEAD_LETTER,
    retry=RetrySchedule([minute], 3),
)
async def send(message: Message[dict[str, str]]) -> None:
    key: str = message.idempotency_key
    del key


async def still_callable(
    message: Message[HealthDataMessage], reading: Message[Reading], session: AsyncSession
) -> None:
    await load(message, session)
    await load_many([message], session)
    await calibrate(reading, session, Clock())
    await alert(reading, clock=Clock())
    await by_annotation(message=reading, session=session, clock=Clock())


@etl.on(Reading)
async def calibrate(message: Message[Reading], session: AsyncSession, clock: Clock) -> None:
    value: float = message.payload.value
    outbox.add(session, message.payload, Event.of(message.payload, ordering_key=str(value)))
    del clock


@etl.on(Reading, batch_size=10, timeout=minute)
async def base_of_the_model(message: Message[BaseModel], session: AsyncSession) -> None:
    del message, session


@etl.on("ward.moved")
async def move(message: Message[Move], session: AsyncSession) -> None:
    ward: str = message.payload.ward
    del ward, session


@etl.on()
async def by_annotation(message: Message[Reading], session: AsyncSession, *, clock: Clock) -> None:
    del message, session, clock


@etl.on("of.a.union")
async def union(message: Message[Reading | Move | bytes], session: AsyncSession) -> None:
    del session
    if isinstance(message.payload, Move):
        ward: str = message.payload.ward
        del ward


@etl.on("of.a.dataclass")
async def dataclass_payload(message: Message[Vital], session: AsyncSession) -> None:
    pulse: int = message.payload.pulse
    del pulse, session


@etl.on_batch(Reading, size=10)
async def readings(messages: Sequence[Message[Reading]], session: AsyncSession) -> None:
    values: list[float] = [message.payload.value for message in messages]
    del values, session


@etl.on_leased(Reading)
async def alert(message: Message[Reading], clock: Clock) -> None:
    del message, clock


@etl.on_failure
async def failed(failure: Failure, clock: Clock) -> None:
    error: BaseException = failure.error
    del error, clock


@etl.on_dead_letter
async def given_up(dead_letter: DeadLettered) -> None:
    message: Message[Any] | None = dead_letter.message
    reason: str = dead_letter.reason
    del message, reason


def env_of_alembic(context: EnvironmentContext, metadata: MetaData) -> None:
    outbox.use_schema("mq")
    outbox.use_schema(None)
    names: frozenset[str] = outbox.TABLE_NAMES
    context.configure(
        target_metadata=[metadata, outbox.metadata],
        include_name=outbox.include_name,
        include_object=outbox.include_object,
    )
    del names


def produce(session: Session, connection: Connection, upload: HealthDataMessage) -> None:
    outbox.add(session, upload, Event("a", 1))
    connection.execute(outbox.insert(upload, Event("a", 1)))


async def produce_async(session: AsyncSession, connection: AsyncConnection) -> None:
    outbox.add(session, Event("a", 1, ordering_key="k"))
    await connection.execute(outbox.insert(Event("a", 1)))
