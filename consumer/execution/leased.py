"""
An attempt with effects outside the database; a lease keeps other processes from the message.

    claim      lease and owner, committed before the call
    call       handler(message), and its reply as a row, while the lease is extended
    complete   only if the lease still belongs to this attempt; with the reply to a request

A value that no event can carry is a failed attempt. While keys are unavailable the reply waits,
and a reply that the database refuses is logged and dropped: the effects have happened.

If the process ends in between, no record says whether the effects happened. Once the lease has
expired, the handler's `on_expired` decides about the message.

The key of the person whom an encrypted message names is held during the call, so that an erasure
waits for its end. `complete` does not ask whether it is still held: the effects have happened.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, assert_never, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consumer.execution.answers import Rows, rows_of_answer
from consumer.execution.calls import within
from consumer.execution.decode import Attempt
from consumer.execution.lease_steps import LeaseSteps
from consumer.execution.transaction import is_cancelled_from_outside, transact
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Handler, Lease, OnLeaseExpired
from consumer.log_fields import fields_of
from consumer.message import Message
from consumer.storage.leases import Busy, Claim, Completed, Expired, Held, Leases
from consumer.storage.outgoing_replies import record_unless_refused
from consumer.telemetry import Telemetry
from consumer.verdict import DONE, DUPLICATE, LEASE_EXPIRED, DeadLetter, Verdict, Wait
from outbox.database.errors import raise_translated
from outbox.errors import DatabaseUnavailable, LeaseLost
from outbox.runtime.log_context import HANDLED
from outbox.transports.delivery import Delivery

Result = TypeVar("Result")
AfterFailure: TypeAlias = Callable[
    [Handler, Delivery, BaseException, Message[Any] | None], Verdict
]

_SHORTEST_WAIT = timedelta(milliseconds=50)
_LONGEST_WAIT = timedelta(seconds=5)
"""A second delivery polls at least this often: the first may end before its lease does."""

_RETRY_EVERY = timedelta(seconds=1)


class Called(NamedTuple):
    """The rows of the *replies* to a message, and how long the call of its handler took."""

    replies: Rows
    took: timedelta


class _Failed(NamedTuple):
    error: BaseException


@dataclass(frozen=True, slots=True)
class Leased:
    """Attempts under the *leases* of a consumer."""

    units: UnitOfWorkFactory
    leases: Leases

    async def execute(
        self,
        handler: Handler,
        attempt: Attempt,
        *,
        owner: UUID,
        telemetry: Telemetry,
        after_failure: AfterFailure,
    ) -> Verdict:
        """
        The verdict on the message of *attempt*: claim it, call *handler*, and complete it.

        *after_failure* is the verdict if the handler has failed. Raises DatabaseUnavailable, and
        KeysUnavailable before the call if the person may have been erased since it was decrypted.
        """
        claim = await self.claim(handler, attempt, owner=owner)
        if not isinstance(claim, Held):
            return claim
        if attempt.reading.verify is not None:
            try:
                await attempt.reading.verify()
            except BaseException:
                await self.release(attempt, claim)
                raise
        try:
            called = await self.call(handler, attempt, claim)
        except LeaseLost:
            telemetry.lease_lost(attempt.delivery.message)
            return after_lost_lease(handler, attempt)
        except BaseException as error:
            if isinstance(error, GeneratorExit) or is_cancelled_from_outside(error):
                # Its effects are unknown: the lease stays, and `on_expired` decides.
                raise
            await self.release(attempt, claim)
            return after_failure(handler, attempt.delivery, error, attempt.message)
        took = called.took
        verdict = await self.complete(handler, attempt, claim, took=took, replies=called.replies)
        key, routing_key = attempt.key, attempt.message.routing_key
        telemetry.handled(handler.event_type, {key: took}, {key: routing_key})
        return verdict

    async def claim(self, handler: Handler, attempt: Attempt, *, owner: UUID) -> Held | Verdict:
        """
        The lease for *attempt*, or a verdict on the message if there is none.

        Raises DatabaseUnavailable. Then the claim may have been committed, so the next claim has
        to name the same *owner*.
        """
        lease = lease_of(handler)
        found: Claim = await self._commit(
            lambda session: self.leases.claim(
                session, attempt.envelope, lease, owner=owner, attempt=attempt.number
            )
        )
        match found:
            case Held():
                return found
            case Completed():
                return DUPLICATE
            case Busy(remaining):
                return Wait(min(max(remaining, _SHORTEST_WAIT), _LONGEST_WAIT))
            case Expired():
                return DeadLetter(attempt.number, LEASE_EXPIRED, message=attempt.message)
            case _:
                assert_never(found)

    async def call(self, handler: Handler, attempt: Attempt, held: Held) -> Called:
        """
        Call *handler* and make its reply; extend the lease meanwhile.

        Raises the handler's error, and LeaseLost after cancelling a handler whose lease is lost.
        """
        working = asyncio.ensure_future(self._call_handler(handler, attempt))
        extending = asyncio.ensure_future(self._keep_extending(handler, attempt, held.owner))
        try:
            await asyncio.wait({working, extending}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise LeaseLost
            outcome = working.result()
        finally:
            for task in (working, extending):
                task.cancel()
            await asyncio.wait({working, extending})
        if isinstance(outcome, _Failed):
            raise outcome.error
        return outcome

    async def complete(
        self,
        handler: Handler,
        attempt: Attempt,
        held: Held,
        *,
        took: timedelta,
        replies: Rows = (),
    ) -> Verdict:
        """
        Record that *attempt* is completed, with its *replies*.

        It waits however long the database is unavailable, rather than call the handler again.
        """

        async def write(session: AsyncSession) -> bool:
            completed = await self.leases.complete(
                session,
                attempt.envelope,
                owner=held.owner,
                took=took,
                may_have_failed=attempt.may_have_failed,
            )
            if completed:
                await record_unless_refused(session, replies, reason="database_refused")
            return completed

        while True:
            try:
                completed = await self._commit(write)
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_EVERY.total_seconds())
            else:
                return DONE if completed else after_lost_lease(handler, attempt)

    async def release(self, attempt: Attempt, held: Held) -> None:
        """End the lease after a failed attempt, so that the next one need not wait for its end."""
        with suppress(DatabaseUnavailable):
            await self._commit(
                lambda session: self.leases.release(session, attempt.envelope, owner=held.owner)
            )

    async def _call_handler(self, handler: Handler, attempt: Attempt) -> Called | _Failed:
        """Its error as a result: raised in this task, a SystemExit would end the process."""
        # The task that calls the handler has a context of its own, which ends with it.
        HANDLED.set(partial(fields_of, attempt.message))
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with within(handler.timeout):
                result = await handler.call(attempt.message)
            took = timedelta(seconds=clock() - began)
            return Called(await rows_of_answer(handler, attempt, result), took)
        except GeneratorExit:
            raise
        except BaseException as error:
            if is_cancelled_from_outside(error):
                raise
            return _Failed(error)

    async def _keep_extending(self, handler: Handler, attempt: Attempt, owner: UUID) -> None:
        """Return once the lease is lost."""
        lease = lease_of(handler)
        is_held = True
        while is_held:
            await asyncio.sleep(lease.duration.total_seconds() / 3)
            # If the database stays unavailable until the lease expires, the next extension fails.
            with suppress(DatabaseUnavailable):
                is_held = await self._commit(
                    lambda session: self.leases.extend(
                        session, attempt.envelope, lease, owner=owner
                    )
                )

    async def _commit(self, write: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        outcome = await transact(self.units, LeaseSteps(write))
        if isinstance(outcome, BaseException):
            raise_translated(outcome)
        return cast("Result", outcome)


def lease_of(handler: Handler) -> Lease:
    """The lease of a handler that has one."""
    if handler.lease is None:
        raise TypeError("the handler has no lease")
    return handler.lease


def after_lost_lease(handler: Handler, attempt: Attempt) -> Verdict:
    """The verdict on a message whose lease was lost while its handler worked."""
    if lease_of(handler).on_expired is OnLeaseExpired.DEAD_LETTER:
        return DeadLetter(attempt.number, LEASE_EXPIRED, message=attempt.message)
    return Wait(_SHORTEST_WAIT)
