"""
An attempt whose effects are outside of the database, so that nobody else makes it meanwhile.

    claim      lease and owner, committed before anything happens
    handler(message)             the lease is extended while it works
    complete   only if the lease is still ours

A process that dies in between leaves a message of which nobody knows whether its effects
happened. What becomes of it once its lease is over was said when the handler was registered.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, assert_never
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from consumer.execution.decode import Attempt
from consumer.execution.transaction import is_cancelled_from_outside, within
from consumer.handler import Handler, Lease, OnLeaseExpired
from consumer.storage.leases import Busy, Claim, Completed, Held, Leases, Over
from consumer.verdict import DONE, DUPLICATE, LEASE_EXPIRED, GiveUp, Verdict, Wait
from outbox.database.errors import driver_errors_translated
from outbox.errors import DatabaseUnavailable, LeaseLost
from outbox.runtime.shield import shielded

Result = TypeVar("Result")

_SHORTEST_WAIT = timedelta(milliseconds=50)
_LONGEST_WAIT = timedelta(seconds=5)
"""How often a second delivery looks whether the first is done, which may be before its lease."""

_AGAIN = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Leased:
    """What leased attempts need."""

    sessions: async_sessionmaker[AsyncSession]
    leases: Leases

    async def claim(self, handler: Handler, attempt: Attempt, *, owner: UUID) -> Held | Verdict:
        """
        The right to make *attempt*, or what becomes of the message without it.

        Raises DatabaseUnavailable; who claims again after that has to be the same *owner*, which
        may have it.
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
            case Over():
                return GiveUp(attempt.number, LEASE_EXPIRED)
            case _:
                assert_never(found)

    async def call(self, handler: Handler, attempt: Attempt, held: Held) -> timedelta:
        """
        Call *handler* and extend the lease while it works; returns how long that was.

        Raises what it raises, and LeaseLost, when it was cancelled.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        working = asyncio.ensure_future(self._function(handler, attempt))
        extending = asyncio.ensure_future(self._extend(handler, attempt, held.owner))
        try:
            await asyncio.wait({working, extending}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise LeaseLost
            error = working.result()
        finally:
            for task in (working, extending):
                task.cancel()
            await asyncio.wait({working, extending})
        if error is not None:
            raise error
        return timedelta(seconds=clock() - began)

    async def complete(
        self, handler: Handler, attempt: Attempt, held: Held, *, took: timedelta
    ) -> Verdict:
        """
        Record that *attempt* was made, however long the database is away.

        Calling the handler again would be worse than to wait.
        """
        while True:
            try:
                completed = await self._commit(
                    lambda session: self.leases.complete(
                        session, attempt.envelope, owner=held.owner, took=took
                    )
                )
            except DatabaseUnavailable:
                await asyncio.sleep(_AGAIN.total_seconds())
            else:
                return DONE if completed else lost(handler, attempt)

    async def release(self, attempt: Attempt, held: Held) -> None:
        """The attempt has failed: the next need not wait until the lease is over."""
        with suppress(DatabaseUnavailable):
            await self._commit(
                lambda session: self.leases.release(session, attempt.envelope, owner=held.owner)
            )

    async def _function(self, handler: Handler, attempt: Attempt) -> BaseException | None:
        """What the handler raises. Raised in this task, a SystemExit would end the process."""
        try:
            async with within(handler.timeout):
                await handler.function(attempt.message)
        except GeneratorExit:
            raise
        except BaseException as error:
            if is_cancelled_from_outside(error):
                raise
            return error
        return None

    async def _extend(self, handler: Handler, attempt: Attempt, owner: UUID) -> None:
        """Return once the lease is lost."""
        lease = lease_of(handler)
        kept = True
        while kept:
            await asyncio.sleep(lease.duration.total_seconds() / 3)
            # A database that is away for so long that the lease ends shows when it is back.
            with suppress(DatabaseUnavailable):
                kept = await self._commit(
                    lambda session: self.leases.extend(
                        session, attempt.envelope, lease, owner=owner
                    )
                )

    async def _commit(self, work: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        with driver_errors_translated():
            async with self.sessions() as session:
                result = await work(session)
                await shielded(session.commit())
                return result


def lease_of(handler: Handler) -> Lease:
    """The lease of a handler that has one."""
    if handler.lease is None:
        raise TypeError("the handler has no lease")
    return handler.lease


def lost(handler: Handler, attempt: Attempt) -> Verdict:
    """What becomes of a message that was taken over while its handler worked."""
    if lease_of(handler).on_expired is OnLeaseExpired.DEAD_LETTER:
        return GiveUp(attempt.number, LEASE_EXPIRED)
    return Wait(_SHORTEST_WAIT)
