"""
Never run, only type-checked: what a user's code looks like to a type checker.

Where it is wrong the type checker has to say so: an ignored error that is none is an error.
"""

from collections.abc import Sequence
from datetime import timedelta

from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from structlog.typing import Processor

import outbox
from consumer import (
    CircuitBreaker,
    Consumer,
    Message,
    OnLeaseExpired,
    RateLimit,
    Reject,
    Retry,
    RetrySchedule,
    add_log_context,
)
from outbox import Event, HealthDataMessage

etl = Consumer("etl", bindings=["health.processing.#"])
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


async def still_callable(message: Message[HealthDataMessage], session: AsyncSession) -> None:
    await load(message, session)
    await load_many([message], session)
    await load(message)  # type: ignore[call-arg]


@etl.on("is.not.async")  # type: ignore[type-var]
def not_async(message: Message[object], session: AsyncSession) -> None:
    del message, session


@etl.on("has.no.session")  # type: ignore[arg-type]
async def no_session(message: Message[object]) -> None:
    del message


@etl.on("returns.something")  # type: ignore[type-var]
async def returns(message: Message[object], session: AsyncSession) -> int:
    del message, session
    return 1


@etl.on_batch("takes.one", size=2)  # type: ignore[arg-type]
async def takes_one(message: Message[object], session: AsyncSession) -> None:
    del message, session


@etl.on_batch("has.no.size")  # type: ignore[call-overload, untyped-decorator]
async def no_size(messages: Sequence[Message[object]], session: AsyncSession) -> None:
    del messages, session


@etl.on("has.strange.options", timeout=5)  # type: ignore[call-overload, untyped-decorator]
async def strange_options(message: Message[object], session: AsyncSession) -> None:
    del message, session


@etl.on("has.an.unknown.option", retries=5)  # type: ignore[call-overload, untyped-decorator]
async def unknown_option(message: Message[object], session: AsyncSession) -> None:
    del message, session


@etl.on_leased("has.batches", batch_size=5)  # type: ignore[call-overload, untyped-decorator]
async def leased_batches(message: Message[object]) -> None:
    del message


def env_of_alembic(context: EnvironmentContext, metadata: MetaData) -> None:
    outbox.use_schema("mq")
    outbox.use_schema(None)
    outbox.use_schema(b"mq")  # type: ignore[arg-type]
    names: frozenset[str] = outbox.TABLE_NAMES
    context.configure(
        target_metadata=[metadata, outbox.metadata],
        include_name=outbox.include_name,
        include_object=outbox.include_object,
    )
    del names


def wrong_outcomes() -> None:
    Retry(minute)  # type: ignore[call-arg]
    Retry(after=5)  # type: ignore[arg-type]
    Reject(5)  # type: ignore[arg-type]


def produce(session: Session, connection: Connection, upload: HealthDataMessage) -> None:
    outbox.add(session, upload, Event("a", 1))
    connection.execute(outbox.insert(upload, Event("a", 1)))


async def produce_async(session: AsyncSession, connection: AsyncConnection) -> None:
    outbox.add(session, Event("a", 1, ordering_key="k"))
    await connection.execute(outbox.insert(Event("a", 1)))
