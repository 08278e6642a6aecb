"""
Attempting the messages of an ordered consumer that wait in the database, lane by lane.

    BEGIN
    the first row of a lane that is due, locked: nobody else attempts this lane
    SAVEPOINT             record that it is done, handler(message, session)
    remove the row, or, if the handler failed, roll back to the savepoint and postpone the row,
    or give its message up
    COMMIT                once the row is removed, the next one of the lane is due
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from consumer.database_retry import DatabaseRetry
from consumer.execution.decode import Attempt
from consumer.execution.executor import BEFORE_ALL, TRIALS, Executor
from consumer.execution.transaction import (
    call,
    may_pass,
    raise_if_unavailable,
    raise_unless_failure,
)
from consumer.execution.unit_of_work import UnitOfWork
from consumer.handler import Handler
from consumer.republish import retry_copy
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.storage.parked import Parked as ParkedMessage
from consumer.storage.parked import ParkedMessages
from consumer.verdict import DONE, DUPLICATE, GiveUp, TryAgain, Verdict, Wait
from outbox.database.errors import driver_errors_translated
from outbox.errors import DatabaseUnavailable, SessionLost, TransactionEndedByHandler
from outbox.runtime.service import pause
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage

LOOK_EVERY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ParkedResult:
    """What an attempt has come to; *handler* worked for *durations* if it has succeeded."""

    verdict: Verdict
    handler: Handler | None = None
    durations: Mapping[str, timedelta] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParkedWorker:
    """
    Attends to what is in *parked*.

    Args:
        queue: Where its messages came from.
        lanes_at_once: How many lanes are attempted side by side.

    """

    handlers: Mapping[str, Handler]
    queue: str
    executor: Executor
    parked: ParkedMessages
    dead_letter_writer: DeadLetterWriter
    lanes_at_once: int
    database_retry: DatabaseRetry
    _losses: Counter[int] = field(default_factory=Counter, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set; attempts in flight are finished first."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.lanes_at_once):
                group.create_task(self._attend(stop))

    async def _attend(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            found = await self.database_retry.run(self.attempt_next, stop, longest=timedelta.max)
            if not found:
                await pause(stop, LOOK_EVERY)

    async def attempt_next(self) -> bool:
        """
        Attempt the first message of a lane that is due.

        Returns False if there is none.
        Raises DatabaseUnavailable.
        """
        head: ParkedMessage | None = None
        made: ParkedResult | None = None
        try:
            with driver_errors_translated():
                async with self.executor.units.begin() as work:
                    heads = await self.parked.next_due(work.session, limit=1)
                    if not heads:
                        return False
                    head = heads[0]
                    with session_loss_raised(work):
                        made = await self._make(work, head)
                        settled = await self._commit(work, head, made)
        except SessionLost as lost:
            if head is None or not self._lost_too_often(head):
                raise
            settled = lost
        if isinstance(settled, BaseException):
            if made is None or made.handler is not None:
                made = self._failed(head, settled)
            settled = await self._settle_anew(head, made)
        self._losses.pop(head.id, None)
        if settled is not None:
            self.executor.telemetry.settled([(head.message.type, settled)])
        return True

    async def _settle_anew(self, head: ParkedMessage, made: ParkedResult) -> Verdict | None:
        """
        What becomes of *head* after an attempt whose transaction was lost.

        The handler ended it, or left to the commit what failed there. The lock of the lane is gone
        with it, so another process may be faster now.
        """
        with driver_errors_translated():
            async with self.executor.units.begin() as work:
                settled = await self._commit(work, head, made)
                if isinstance(settled, BaseException):
                    raise settled
        return settled

    def _lost_too_often(self, head: ParkedMessage) -> bool:
        """
        Whether *head* was lost with the database's session too often to be nobody's failure.

        The database may be away, or have ended the session; or the handler ends each session.
        """
        self._losses[head.id] += 1
        return self._losses[head.id] >= TRIALS

    async def _make(self, work: UnitOfWork, head: ParkedMessage) -> ParkedResult:
        """Attempt *head* in a savepoint of *work*, so that the lane stays locked if it fails."""
        handler = self.handlers.get(head.message.type or "")
        # Its age was looked at when it came.
        delivery = Delivery(self._as_delivered(head), 0, redelivered=True)
        decoded = self.executor.decode(delivery, handler, datetime.now(UTC), BEFORE_ALL)
        if not isinstance(decoded, Attempt):
            return ParkedResult(decoded)
        if handler is None:
            raise AssertionError("without a handler there is no attempt")
        trial = 1
        while True:
            made = await self._try(work, decoded, handler)
            if isinstance(made, ParkedResult):
                return made
            if may_pass(made):
                await self.executor.pause_after(trial)
            if trial == TRIALS or not may_pass(made) or not work.is_open:
                return self._failed(head, made)
            trial += 1

    async def _try(
        self, work: UnitOfWork, attempt: Attempt, handler: Handler
    ) -> ParkedResult | BaseException:
        """What *attempt* has come to, or the error of the handler's for which it was undone."""
        savepoint = await work.savepoint()
        entries = {attempt.key: (attempt.envelope, attempt.number)}
        if not await work.record_completed(self.executor.dedup, entries):
            await savepoint.commit()
            return ParkedResult(DUPLICATE)
        try:
            durations = await call(handler, [attempt], work.session)
            if not work.is_open:
                raise TransactionEndedByHandler  # noqa: TRY301
            await savepoint.commit()
        except BaseException as error:  # noqa: BLE001 - the user's code
            raise_unless_failure(error)
            raise_if_lost(work)
            if work.is_open:
                await savepoint.rollback()
            return error
        return ParkedResult(DONE, handler, durations)

    async def _commit(
        self, work: UnitOfWork, head: ParkedMessage, made: ParkedResult
    ) -> Verdict | BaseException | None:
        """
        Settle *head* and commit.

        Returns what became of it, None if another process was faster, or the error for which
        nothing of this was done, if that may be the handler's.
        Raises DatabaseUnavailable.
        """
        if not work.is_open:
            return TransactionEndedByHandler()
        try:
            settled = await self._settle(work.session, head, made.verdict)
            if settled is None:
                return None
            await work.commit()
        except BaseException as error:  # noqa: BLE001 - what the handler has left to the commit
            raise_unless_failure(error)
            raise_if_lost(work)
            raise_if_unavailable(error)
            return error
        if made.handler is not None:
            self.executor.record_success(made.handler, made.durations)
        return settled

    async def _settle(
        self, session: AsyncSession, head: ParkedMessage, verdict: Verdict
    ) -> Verdict | None:
        """What becomes of *head* with the transaction; None if another process was faster."""
        parked = self.parked
        match verdict:
            case TryAgain(attempt=attempts, delay=delay):
                kept = await parked.postpone(session, head, attempts=attempts, wait=delay)
                return verdict if kept else None
            case Wait(delay=delay):
                kept = await parked.postpone(session, head, attempts=head.attempts, wait=delay)
                return verdict if kept else None
        # The lane first, then the record, as an attempt locks them.
        if not await parked.remove(session, head):
            return None
        if not isinstance(verdict, GiveUp):
            return verdict
        message = self._as_delivered(head)
        written = await self.dead_letter_writer.write_in(
            session, message, reason=verdict.code, attempts=verdict.attempt
        )
        return verdict if written else DUPLICATE

    def _failed(self, head: ParkedMessage, error: BaseException) -> ParkedResult:
        handler = self.handlers.get(head.message.type or "")
        return ParkedResult(self.executor.after_failure(handler, head.attempts + 1, error))

    def _as_delivered(self, head: ParkedMessage) -> WireMessage:
        return retry_copy(head.message, queue=self.queue, attempt=head.attempts)


@contextmanager
def session_loss_raised(work: UnitOfWork) -> Iterator[None]:
    """Raise SessionLost for what is raised once the database has ended the session of *work*."""
    try:
        yield
    except (DBAPIError, DatabaseUnavailable):
        raise_if_lost(work)
        raise


def raise_if_lost(work: UnitOfWork) -> None:
    """Raise SessionLost if the database has ended the session of *work*, and its lock."""
    if work.is_lost:
        raise SessionLost("the session was ended") from None
