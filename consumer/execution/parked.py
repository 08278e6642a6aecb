"""
The transaction of a parked message: the head of its lane is handled, or postponed.

    BEGIN
    guard     lock the head of a lane; no other process attempts this lane
    record    SAVEPOINT, insert the dedup row
    call      the handler; if it fails, roll back to the savepoint, so that the lane stays locked
    settle    remove the row, postpone it, or remove it and write a dead letter; delete its strikes
    COMMIT    once the row is removed, the next one of the lane is due

If the handler ends the transaction, or leaves to the COMMIT a statement that fails there, the lock
is gone with it. Then the message is settled in a second transaction, which finds out whether
another process has attempted it meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from consumer.execution.calls import call
from consumer.execution.decode import Attempt
from consumer.execution.executor import BEFORE_ALL, TRIALS
from consumer.execution.parked_context import ParkedContext, ParkedResult
from consumer.execution.reading import IN_CLEAR
from consumer.execution.transaction import raise_unless_failure
from consumer.execution.unit_of_work import UnitOfWork
from consumer.handler import Handler
from consumer.message_copies import waiting_since
from consumer.storage.failing import FailedAttempt
from consumer.storage.parked import ParkedMessage
from consumer.verdict import DONE, DUPLICATE, DeadLetter, TryAgain, Verdict, Wait
from outbox.database.errors import (
    NO_PRIVILEGE,
    driver_errors_translated,
    is_contention,
    is_unavailable,
    may_pass,
    raise_translated,
    sqlstate,
)
from outbox.errors import DatabaseUnavailable, SessionLost


class ParkedSteps:
    """
    One attempt at *message*, the head of a lane. With *attempted*, it only settles the message.

    `reading` is how its body is read.
    """

    def __init__(
        self,
        context: ParkedContext,
        message: ParkedMessage,
        attempted: ParkedResult | None = None,
    ) -> None:
        self._context = context
        self.message = message
        self.attempted = attempted
        self.reading = IN_CLEAR
        self._handler: Handler | None = None
        self._attempt: Attempt | None = None
        self._savepoint: AsyncSessionTransaction | None = None
        self._settled: Verdict | None = None

    async def guard(self, work: UnitOfWork) -> bool:
        if self.attempted is not None:
            return True
        with driver_errors_translated():
            if not await self._context.parked.lock(work.session, self.message):
                return False
        self._handler = self._context.handler_of(self.message)
        # Its age was checked when it was delivered.
        delivery = self._context.as_delivered(self.message)
        now = datetime.now(UTC)
        decoded = self._context.executor.decode(
            self._handler, self.reading, now, BEFORE_ALL, delivery
        )
        if isinstance(decoded, Attempt):
            self._attempt = decoded
        else:
            self.attempted = ParkedResult(decoded)
        return True

    async def record(self, work: UnitOfWork) -> None:
        """In a savepoint, to which a failed attempt is rolled back."""
        attempt = self._attempt
        if attempt is None:
            return
        with session_loss_raised(work):
            self._savepoint = await work.savepoint()
            entries = {attempt.key: (attempt.envelope, attempt.number)}
            dedup = self._context.executor.dedup
            recorded = await work.record_completed(dedup, entries)
            await dedup.failing.forget(work.session, entries)
            if not recorded:
                await self._savepoint.commit()
                self.attempted = ParkedResult(DUPLICATE)

    async def call(self, work: UnitOfWork) -> None:
        """Call the handler, again from the savepoint while other transactions delay it."""
        trial = 1
        while self._attempt is not None and self.attempted is None:
            with session_loss_raised(work):
                error = await self._try(work, self._attempt)
                if error is None:
                    return
                passes = may_pass(error)
                if passes:
                    await self._context.executor.pause_after(trial)
                if trial == TRIALS or not passes or not work.is_open:
                    self.attempted = self._failed(error)
                    return
            trial += 1
            await self.record(work)

    async def _try(self, work: UnitOfWork, attempt: Attempt) -> BaseException | None:
        """The handler's error for which the savepoint was rolled back, or None."""
        handler, savepoint = self._handler, self._savepoint
        if handler is None or savepoint is None:
            raise AssertionError("an attempt has a handler and a savepoint")
        try:
            durations = await call(handler, [attempt], work)
            await savepoint.commit()
        except BaseException as error:  # noqa: BLE001 - the user's code
            raise_unless_failure(error)
            raise_if_lost(work)
            if work.is_open:
                await savepoint.rollback()
            return error
        self.attempted = ParkedResult(DONE, handler, durations)
        return None

    async def settle(self, work: UnitOfWork) -> bool:
        """Returns False if another process has attempted the message meanwhile."""
        if self.attempted is None:
            raise AssertionError("a message that is settled was attempted")
        with session_loss_raised(work):
            self._settled = await self._write(work.session, self.message, self.attempted)
            if self._settled is not None:
                await self._context.begun.forget_parked(work.session, self.message.id)
        if self.attempted.handler is not None and self.reading.verify is not None:
            # Last: the statements before may wait for locks.
            await self.reading.verify()
        return self._settled is not None

    async def _write(
        self, session: AsyncSession, message: ParkedMessage, attempted: ParkedResult
    ) -> Verdict | None:
        parked, verdict = self._context.parked, attempted.verdict
        match verdict:
            case TryAgain(attempt=attempts, delay=delay, unsupported_since=since):
                headers = dict(waiting_since(message.message, since).headers)
                changes = {"headers": headers} if since is not None else {}
                changed = await parked.postpone(
                    session, message, attempts=attempts, wait=delay, **changes
                )
                if changed and verdict.summary is not None:
                    failed = FailedAttempt(message.message, attempts, delay, verdict.summary)
                    await self._context.executor.dedup.failing.record(session, failed)
                return verdict if changed else None
            case Wait(delay=delay):
                attempts = message.attempts
                changed = await parked.postpone(session, message, attempts=attempts, wait=delay)
                return verdict if changed else None
        # The lane first, then the dedup row: attempts lock them in this order.
        if not await parked.remove(session, message):
            return None
        if not isinstance(verdict, DeadLetter):
            return verdict
        written = await self._context.dead_letter_writer.write_in(
            session,
            self._context.as_delivered(message).message,
            reason=verdict.code,
            attempts=verdict.attempt,
            summary=verdict.summary,
            body_expired=attempted.body_expired,
        )
        return verdict if written else DUPLICATE

    def raise_unless_failure(self, work: UnitOfWork, error: BaseException) -> None:
        raise_unless_failure(error)
        raise_if_lost(work)
        # A missing privilege too: the COMMIT checks the constraints of tables with other owners.
        refused = is_contention(error) or is_unavailable(error) or sqlstate(error) == NO_PRIVILEGE
        if isinstance(error, DBAPIError) and refused:
            raise_translated(error)

    def result(self) -> Verdict | None:
        """None if another process attempts the message, or has attempted it meanwhile."""
        return self._settled

    def after(self, error: BaseException) -> "ParkedSteps":
        """The settlement of the message once its transaction has failed with *error*."""
        attempted = self.attempted
        if attempted is None or attempted.handler is not None:
            attempted = self._failed(error)
        return ParkedSteps(self._context, self.message, attempted)

    def _failed(self, error: BaseException) -> ParkedResult:
        read = self._attempt.message if self._attempt is not None else None
        return self._context.failed(self.message, error, read)


@contextmanager
def session_loss_raised(work: UnitOfWork) -> Iterator[None]:
    """Raise SessionLost once the database has ended the session, else DatabaseUnavailable."""
    try:
        yield
    except (DBAPIError, DatabaseUnavailable) as error:
        raise_if_lost(work)
        raise_translated(error)


def raise_if_lost(work: UnitOfWork) -> None:
    """Raise SessionLost if the database has ended the session of *work*, and its lock."""
    if work.is_lost:
        raise SessionLost("the session was ended") from None
