"""
A consumer with one handler for each behaviour of handlers that tests need.

The table `effects` has no unique key: an event that is applied twice has two rows. Effects outside
of the database are lines in the file that `CALLS` names. The file that `OUTAGE` names exists while
a server that a handler depends on is unavailable.
"""

import asyncio
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from consumer import CircuitBreaker, Consumer, Message, OnLeaseExpired, RateLimit, Reject, Retry
from tests.support.effects import apply, effects

BATCH_SIZE = 10
TIMEOUT = timedelta(milliseconds=200)
LEASE = timedelta(seconds=1)
RATE = RateLimit(10, per=timedelta(seconds=1))
PAUSE = timedelta(milliseconds=200)
ERRORS: dict[str, type[BaseException]] = {
    error.__name__: error
    for error in (SystemExit, KeyboardInterrupt, asyncio.CancelledError, MemoryError)
}

consumer = Consumer("behaviours", bindings=["test.#"])
consumer.on("test.happened")(apply)


@consumer.on("test.in.batches", batch_size=BATCH_SIZE)
async def in_batches(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)
    if "fails" in message.payload:
        raise RuntimeError


@consumer.on_batch("test.as.list", size=BATCH_SIZE)
async def as_list(messages: Sequence[Message[Any]], session: AsyncSession) -> None:
    """Record the size of the batch in the column *consumer*."""
    rows = [
        {"event_id": each.id, "attempt": each.attempt, "consumer": f"list of {len(messages)}"}
        for each in messages
    ]
    await session.execute(sa.insert(effects), rows)
    if any("fails" in each.payload for each in messages):
        raise RuntimeError


@consumer.on("test.wants.to.wait")
async def request_retry(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)
    if message.attempt == 1:
        raise Retry(after=timedelta(seconds=message.payload["seconds"]))


@consumer.on("test.is.rejected")
async def reject(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)
    raise Reject("unknown_device")


@consumer.on("test.hangs.once", timeout=TIMEOUT)
async def hang_once(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)
    if message.attempt == 1:
        await asyncio.Event().wait()


def is_wanted(message: Message[Any]) -> bool:
    """Raise the error that the payload names, in the first attempt."""
    if "raises" in message.payload and message.attempt == 1:
        raise ERRORS[message.payload["raises"]]
    return bool(message.payload["wanted"])


@consumer.on("test.is.filtered", filter=is_wanted)
async def filtered(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)


@consumer.on("test.raises.once")
async def raise_once(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)
    if message.attempt == 1:
        raise ERRORS[message.payload["raises"]]


@consumer.on("test.blocks.the.loop")
async def block_loop(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)
    threading.Event().wait(message.payload["seconds"])


@consumer.on("test.at.a.rate", rate_limit=RATE)
async def at_a_rate(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)


@consumer.on("test.depends", circuit_breaker=CircuitBreaker(failures=1, pause=PAUSE))
async def depend(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)
    if is_unavailable():
        raise ConnectionError


@consumer.on("test.tells")
async def tell(message: Message[Any], session: AsyncSession) -> None:
    """Write on standard error in each way that Python has."""
    logging.getLogger("myapp.handlers").warning("took %s", "an hour", extra={"rows": 2})
    warnings.warn("a warning of the application", UserWarning, stacklevel=1)
    print("a printed line", file=sys.stderr)  # noqa: T201
    thread = threading.Thread(target=message.payload.pop, args=("nothing",))
    thread.start()
    thread.join()
    asyncio.get_running_loop().call_soon(message.payload.pop, "nothing")
    await apply(message, session)


def is_unavailable() -> bool:
    return Path(os.environ["OUTAGE"]).exists()


def recover() -> None:
    Path(os.environ["OUTAGE"]).unlink()


@consumer.on("test.loses.its.connection")
async def lose_connection(message: Message[Any], session: AsyncSession) -> None:
    """Fail once, after Postgres has ended the session without the client noticing."""
    await apply(message, session)
    if is_unavailable():
        recover()
        pid = await session.scalar(sa.text("SELECT pg_backend_pid()"))
        engine = create_async_engine(os.environ["MQ_DATABASE_URL"])
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        await engine.dispose()
        raise RuntimeError


@consumer.on("test.reads.all.columns")
async def read_all_columns(message: Message[Any], session: AsyncSession) -> None:
    await session.execute(sa.text("SELECT * FROM effects LIMIT 1"))
    await apply(message, session)
    if "deallocates" in message.payload:
        await session.execute(sa.text("DEALLOCATE ALL"))
        await session.execute(sa.text("SELECT * FROM effects LIMIT 1"))


@consumer.on("test.kills")
async def kill(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session)
    os._exit(9)


@consumer.on_leased("test.leased.repeat", lease=LEASE)
async def leased_repeat(message: Message[Any]) -> None:
    await act_outside(message)


@consumer.on_leased("test.leased.stop", lease=LEASE, on_expired=OnLeaseExpired.DEAD_LETTER)
async def leased_stop(message: Message[Any]) -> None:
    await act_outside(message)


def record_call(line: str) -> None:
    with Path(os.environ["CALLS"]).open("a") as calls:
        calls.write(line)


async def act_outside(message: Message[Any]) -> None:
    """Record the call; then, in the first attempt and delivery, do what the payload requests."""
    record_call(f"{message.id} {message.idempotency_key} {message.attempt}\n")
    if "hangs" in message.payload and not message.redelivered:
        await asyncio.Event().wait()
    if "seconds" in message.payload:
        await asyncio.wait(
            {asyncio.ensure_future(asyncio.Event().wait())}, timeout=message.payload["seconds"]
        )
    if "raises" in message.payload and message.attempt == 1:
        raise ERRORS[message.payload["raises"]]
