"""
The transaction of an attempt, so that its effects happen once.

    BEGIN
    record that the messages are done    those that were done before drop out
    handler(message, session)            effects and outgoing events on the same session
    COMMIT                               never interrupted, never timed out
    then, and only then, the broker is told

If the outcome of the COMMIT is not known, the attempt is made again: it finds the record or not.
One attempt, or several that share the transaction: either all of them are kept, or none.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from consumer.execution.decode import Attempt
from consumer.execution.ordering import Lanes
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Handler
from consumer.storage.dedup import Dedup
from consumer.verdict import DONE, DUPLICATE, PARKED, Verdict
from outbox.database.errors import driver_errors_translated, is_contention, is_unavailable
from outbox.errors import DatabaseUnavailable, TransactionEndedByHandler


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction has committed: a verdict on each attempt, and how long handlers took."""

    verdicts: Sequence[Verdict]
    durations: Mapping[str, timedelta]


async def transact(
    handler: Handler,
    attempts: Sequence[Attempt],
    *,
    units: UnitOfWorkFactory,
    dedup: Dedup,
    lanes: Lanes | None = None,
) -> Committed | BaseException:
    """
    Carry *attempts* out at *units*, all together; with *lanes*, those whose lane is free.

    Returns the error for which nothing was kept, if that may be the handler's.
    Raises DatabaseUnavailable.
    """
    with driver_errors_translated():
        async with units.begin() as work:
            try:
                free = attempts if lanes is None else await lanes.hold_back(work.session, attempts)
                by_key = {attempt.key: attempt for attempt in reversed(free)}
                fresh = await work.record_completed(
                    dedup, {key: (each.envelope, each.number) for key, each in by_key.items()}
                )
            except DBAPIError as error:
                if is_contention(error):
                    return error
                raise
            # Of two copies in one batch the first is handled, and the second is its duplicate.
            chosen = [each for each in free if each.key in fresh and by_key[each.key] is each]
            durations: dict[str, timedelta] = {}
            try:
                if chosen:
                    durations = await call(handler, chosen, work.session)
                    if not work.is_open:
                        raise TransactionEndedByHandler  # noqa: TRY301
                if chosen or len(free) < len(attempts):
                    await work.commit()
            except BaseException as error:  # noqa: BLE001 - the user's code
                raise_unless_failure(error)
                return error
    verdicts: dict[int, Verdict] = {id(each): DUPLICATE for each in free}
    verdicts |= {id(each): DONE for each in chosen}
    return Committed([verdicts.get(id(each), PARKED) for each in attempts], durations)


def raise_unless_failure(error: BaseException) -> None:
    """
    Raise what is not the handler's fault: our own cancellation, and a database that is away.

    A handler may also be cancelled by something of its own, or ask the process to exit, which are
    failures like any other.
    """
    if isinstance(error, (DatabaseUnavailable, GeneratorExit)) or is_cancelled_from_outside(error):
        raise error


def raise_if_unavailable(error: BaseException) -> None:
    """Raise DatabaseUnavailable for what a server had no room, no time or no right for."""
    if not isinstance(error, DBAPIError):
        return
    try:
        with driver_errors_translated():
            raise error
    except DBAPIError:
        return


def may_pass(error: BaseException) -> bool:
    """
    Whether the same transaction may succeed now, although nobody has mended anything.

    Others have held it up, or a database was away: ours, or one that the handler asked as well.
    """
    return is_contention(error) or (isinstance(error, SQLAlchemyError) and is_unavailable(error))


def is_cancelled_from_outside(error: BaseException) -> bool:
    """Whether *error* is the cancellation of the current task, and not something it awaited."""
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def call(
    handler: Handler, attempts: Sequence[Attempt], session: AsyncSession
) -> dict[str, timedelta]:
    """Call *handler* for *attempts*; returns how long it worked on each, by key."""
    clock = asyncio.get_running_loop().time
    if handler.takes_list:
        began = clock()
        async with within(handler.timeout):
            await handler.function([attempt.message for attempt in attempts], session)
        took = timedelta(seconds=clock() - began)
        return {attempt.key: took for attempt in attempts}
    durations = {}
    for attempt in attempts:
        began = clock()
        async with within(handler.timeout):
            await handler.function(attempt.message, session)
        durations[attempt.key] = timedelta(seconds=clock() - began)
    return durations


def within(timeout: timedelta | None) -> AbstractAsyncContextManager[object]:
    """A deadline for the block, or none."""
    return nullcontext() if timeout is None else asyncio.timeout(timeout.total_seconds())
