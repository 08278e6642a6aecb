"""
Two consumers whose handlers, filters, middleware and hooks do what must not show health data.

`canary` handles `canary.#`; `lanes` is ordered and handles `lane.#`. Each payload has the fields
`note`, a marker, and `statement`, a marker that the handler may send to the database by itself.
"""

import asyncio
import logging
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from consumer import CallNext, Consumer, HandlerCall, Message, Reject, RetrySchedule
from outbox import Event
from tests.support.effects import effects

ONCE = RetrySchedule([timedelta(milliseconds=200)], max_retries=1)
LATER = RetrySchedule([timedelta(minutes=10)], max_retries=3)
REDACTED = "canary.client"
"""A logger of the application that MQ_REDACTED_LOGGERS names."""

held: list[Any] = []
"""Messages that this process keeps, as handlers do."""


class Reading(BaseModel):
    note: int
    statement: float


def log_values(message: Message[Any]) -> None:
    """Log values by loggers whose values are redacted, and the message by another one."""
    for name in ("httpx", "asyncpg", "sqlalchemy.engine", REDACTED):
        logging.getLogger(name).warning("GET %s %s", message.payload, message.headers)
    logging.getLogger("canary").warning("took %r", message)
    warnings.warn("a warning of the application", UserWarning, stacklevel=1)
    asyncio.get_running_loop().call_soon(int, str(message.payload))


async def fail_for_some(call: HandlerCall, call_next: CallNext) -> None:
    if call.event_type == "canary.middleware":
        raise ValueError(call.message.payload, call.message.headers)
    await call_next()


def fails(message: Message[Any]) -> bool:
    raise ValueError(message.payload, message.correlation_id)


canary = Consumer("canary", bindings=["canary.#"], middleware=[fail_for_some])
lanes = Consumer("lanes", bindings=["lane.#"], ordered=True)


@canary.on_failure
async def report(failure: Any) -> None:
    raise ValueError(failure.message.payload) from failure.error


@canary.on_dead_letter
async def page(dead_letter: Any) -> None:
    logging.getLogger("canary").warning("given up %r", dead_letter)


async def done(message: Message[Any], session: AsyncSession) -> None:
    await session.execute(sa.insert(effects).values(event_id=message.id, attempt=message.attempt))


@canary.on("canary.handled")
async def handle(message: Message[Any], session: AsyncSession) -> None:
    held.append(message)
    log_values(message)
    await done(message, session)
    follows = Event("canary.followed", message.payload, correlation_id=message.correlation_id)
    outbox.add(session, follows)


@canary.on("canary.followed")
async def follow(message: Message[Any], session: AsyncSession) -> None:
    await done(message, session)


@canary.on("canary.retried", retry=ONCE)
async def fail_once(message: Message[Any], session: AsyncSession) -> None:
    await done(message, session)
    if message.attempt == 1:
        raise LookupError(message.payload) from ValueError(message.headers)


@canary.on("canary.fails", retry=ONCE)
@canary.on("canary.middleware", retry=ONCE)
@canary.on("canary.filtered", retry=ONCE, filter=fails)
async def fail(message: Message[Any], session: AsyncSession) -> None:
    log_values(message)
    raise RuntimeError(message.payload, message.correlation_id, message.idempotency_key)


@canary.on("canary.later", retry=LATER)
async def fail_until_later(message: Message[Any], session: AsyncSession) -> None:
    raise RuntimeError(message.payload)


@canary.on_batch("canary.batch", size=5, retry=ONCE)
async def fail_in_batch(messages: Sequence[Message[Any]], session: AsyncSession) -> None:
    raise RuntimeError([each.payload for each in messages])


@canary.on_leased("canary.leased", lease=timedelta(seconds=30), retry=ONCE)
async def fail_outside(message: Message[Any]) -> None:
    raise RuntimeError(message.payload)


@canary.on("canary.modelled", model=Reading)
async def read(message: Message[Reading], session: AsyncSession) -> None: ...


@canary.on("canary.rejected")
async def reject(message: Message[Any], session: AsyncSession) -> None:
    raise Reject("unknown_device") from ValueError(message.payload)


@canary.on("canary.sql", retry=ONCE)
async def send_to_database(message: Message[Any], session: AsyncSession) -> None:
    """Fail with an error of the driver that quotes the value."""
    is_postgres = session.get_bind().dialect.name == "postgresql"
    text = "SELECT CAST(CAST(:value AS text) AS json)" if is_postgres else "SELECT json(:value)"
    await session.execute(sa.text(text), {"value": '{"a": ' + message.payload["statement"]})


@lanes.on("lane.blocked", retry=LATER)
async def block(message: Message[Any], session: AsyncSession) -> None:
    raise RuntimeError(message.payload)
