"""
The skeleton of every transaction of a consumer, and the transaction of a handler.

    BEGIN
    guard     choose or lock the messages that may be handled now
    record    insert their dedup rows; completed messages drop out; forget failures before
    call      the handler: its effects and outgoing events, and its reply to a request, are on the
              same session
    settle    write the verdicts on the messages
    COMMIT    never interrupted, never timed out
    then, and only then, the broker gets the ack

| transaction            | guard                     | record | call    | settle                  |
|------------------------|---------------------------|--------|---------|-------------------------|
| of a handler           | park those behind others  | insert | handler | –                       |
| of a parked message    | lock the head of its lane | insert | handler | remove, postpone, or    |
|                        |                           |        |         | write a dead letter     |
| of a leased message    | claim, extend or end its lease, with the handler called outside    |

If the outcome of the COMMIT is unknown, the attempt is repeated: it finds the dedup row or not.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from sqlalchemy.exc import DBAPIError

from consumer.execution.calls import call
from consumer.execution.decode import Attempt
from consumer.execution.ordering import Lanes
from consumer.execution.unit_of_work import UnitOfWork, UnitOfWorkFactory
from consumer.handler import Handler
from consumer.storage.dedup import Dedup
from consumer.verdict import DONE, DUPLICATE, PARKED, WAIT, Verdict
from outbox.database.errors import (
    TRANSLATED,
    cause_of,
    has_lost_statement,
    is_of_server,
    problem_of,
    raise_translated,
)
from outbox.database.sqlstates import Cause
from outbox.errors import DatabaseUnavailable, KeysUnavailable

Result_co = TypeVar("Result_co", covariant=True)

_OF_MESSAGE = {Cause.CONTENTION, Cause.VALUE}
"""Errors of the record of a message that are an attempt: to be repeated, or failed."""


_NOT_OF_HANDLER = (DatabaseUnavailable, KeysUnavailable, GeneratorExit)


class Steps(Protocol[Result_co]):
    """The steps of one kind of transaction between BEGIN and COMMIT."""

    async def guard(self, work: UnitOfWork) -> bool:
        """Choose or lock the messages; False ends the transaction, with no step after it."""

    async def record(self, work: UnitOfWork) -> None:
        """Insert the dedup rows."""

    async def call(self, work: UnitOfWork) -> None:
        """Call the handler."""

    async def settle(self, work: UnitOfWork) -> bool:
        """Write the verdicts on the messages. Returns whether to commit."""

    def raise_unless_failure(self, work: UnitOfWork, error: BaseException) -> None:
        """Raise *error*, or another, unless it may be the handler's failure."""

    def result(self) -> Result_co:
        """The result of the transaction, after its end."""


async def transact(units: UnitOfWorkFactory, steps: Steps[Result_co]) -> Result_co | BaseException:
    """
    Run *steps* in one transaction.

    Returns the error for which nothing was committed, if it may be the handler's or the message's,
    or if other transactions delayed this one (see `may_pass`). Raises DatabaseUnavailable.
    """
    try:
        async with units.begin() as work:
            try:
                if not await steps.guard(work):
                    return steps.result()
                await steps.record(work)
            except DBAPIError as error:
                if cause_of(error) in _OF_MESSAGE:
                    return error
                raise
            try:
                await steps.call(work)
                if await steps.settle(work):
                    await work.commit()
            except BaseException as error:  # noqa: BLE001 - the user's code
                steps.raise_unless_failure(work, error)
                return error
    except TRANSLATED as error:
        raise_translated(error)
    return steps.result()


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of a commit: a verdict on each attempt, and the durations of handler calls."""

    verdicts: Sequence[Verdict]
    durations: Mapping[str, timedelta]


class HandlerSteps:
    """
    The transaction of *handler* for one attempt, or several: all are committed, or none.

    With *lanes*, those of an ordered consumer, an attempt behind others of its lane is parked.
    `was_called` is true once the messages are recorded.
    """

    def __init__(
        self,
        handler: Handler,
        attempts: Sequence[Attempt],
        *,
        dedup: Dedup,
        lanes: Lanes | None = None,
    ) -> None:
        self._handler = handler
        self._attempts = self._free = attempts
        self._dedup = dedup
        self._lanes = lanes
        self.was_called = False
        self._fresh: list[Attempt] = []
        self._uncalled: list[Attempt] = []
        self._has_forgotten = False
        self._durations: dict[str, timedelta] = {}

    async def guard(self, work: UnitOfWork) -> bool:
        if self._lanes is not None:
            self._free = await self._lanes.park_behind_others(work.session, self._attempts)
        return True

    async def record(self, work: UnitOfWork) -> None:
        # Of two copies in one batch the first is handled, and the second is its duplicate.
        first = {attempt.key: attempt for attempt in reversed(self._free)}
        keys = await work.record_completed(
            self._dedup, {key: (each.envelope, each.number) for key, each in first.items()}
        )
        self._fresh = [each for each in self._free if each.key in keys and first[each.key] is each]
        # Before the handler: a statement of its own that failed would fail this one, too.
        if failed := [each.key for each in self._free if each.may_have_failed]:
            self._has_forgotten = await self._dedup.failing.forget(work.session, failed)

    async def call(self, work: UnitOfWork) -> None:
        self.was_called = True
        if self._fresh:
            self._durations = await call(self._handler, self._fresh, work)

    async def settle(self, work: UnitOfWork) -> bool:
        if not self._handler.takes_list and len(self._durations) < len(self._fresh):
            self._uncalled = [each for each in self._fresh if each.key not in self._durations]
            await self._dedup.forget(work.session, [each.key for each in self._uncalled])
        has_parked = len(self._free) < len(self._attempts)
        if self._fresh and (verify := self._fresh[0].reading.verify) is not None:
            # First: what the session has not written yet may wait for locks.
            await work.session.flush()
            await verify()
        return bool(self._fresh) or has_parked or self._has_forgotten

    def raise_unless_failure(self, work: UnitOfWork, error: BaseException) -> None:
        raise_unless_failure(error)
        if has_lost_statement(error):
            work.discard()

    def result(self) -> Committed:
        verdicts: dict[int, Verdict] = {id(each): DUPLICATE for each in self._free}
        verdicts |= {id(each): DONE for each in self._fresh}
        verdicts |= {id(each): WAIT for each in self._uncalled}
        return Committed(
            [verdicts.get(id(each), PARKED) for each in self._attempts], self._durations
        )


def raise_unless_failure(error: BaseException) -> None:
    """
    Raise an *error* that is not the handler's failure: the task's own cancellation,
    KeysUnavailable, and DatabaseUnavailable for the consumer's database that has no room or is
    damaged.

    A handler may also be cancelled by its own code, or ask the process to exit; both are failures
    like any other.
    """
    if is_of_server(error):
        raise DatabaseUnavailable(problem_of(error)) from None
    if isinstance(error, _NOT_OF_HANDLER) or is_cancelled_from_outside(error):
        raise error


def is_cancelled_from_outside(error: BaseException) -> bool:
    """Whether *error* is the cancellation of the current task, and not of one that it awaited."""
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
