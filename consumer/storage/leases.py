"""
Leases on messages whose effects are outside the database.

    free ──claim──▶ processing (owner, lease_until) ──complete──▶ completed
                       │  ▲ extend                └──release──▶ failed
                       ▼  │
                    expired: another owner claims it, or it is dead-lettered

Every write after the claim selects the row by its owner: once another process has claimed the
message, the write finds no row. All times are those of the database's clock.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from consumer.handler import Lease, OnLeaseExpired
from consumer.storage.failing import FailingMessages
from consumer.storage.inserted import raise_not_inserted
from consumer.storage.tables import COMPLETED, FAILED, PROCESSING, as_uuid, processed_messages
from outbox.database_time import database_now, now_plus
from outbox.wire.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Held:
    """*owner* holds the lease."""

    owner: UUID


@dataclass(frozen=True, slots=True)
class Completed:
    """The message is completed."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another owner holds the lease, for at least *remaining*."""

    remaining: timedelta


@dataclass(frozen=True, slots=True)
class Expired:
    """Another owner's lease has expired, and the message must not be handled again."""


Claim: TypeAlias = Held | Completed | Busy | Expired


class Leases:
    """The leases of one *consumer*, in `processed_messages`."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        self._failing = FailingMessages(consumer)

    async def claim(
        self, session: AsyncSession, envelope: Envelope, lease: Lease, *, owner: UUID, attempt: int
    ) -> Claim:
        """
        Claim *envelope* for *owner*, unless it is completed or another owner has the lease.

        Raises DatabaseUnavailable if there is no row after all.
        """
        upsert = self._upsert(session, envelope, lease, owner=owner, attempt=attempt)
        if (await session.execute(upsert)).first() is not None:
            return Held(owner)
        table = processed_messages
        row = (
            await session.execute(
                sa.select(table.c.status, table.c.lease_until, database_now().label("now")).where(
                    self._is_row_of(envelope)
                )
            )
        ).one_or_none()
        if row is None:
            # Or it was purged in between: then the next claim succeeds.
            raise_not_inserted(processed_messages)
        if row.status == COMPLETED:
            return Completed()
        left: timedelta = row.lease_until - row.now
        if left <= timedelta(0) and lease.on_expired is OnLeaseExpired.DEAD_LETTER:
            return Expired()
        # A lease that has expired since the upsert is left to the next claim.
        return Busy(max(left, timedelta(0)))

    async def extend(
        self, session: AsyncSession, envelope: Envelope, lease: Lease, *, owner: UUID
    ) -> bool:
        """Extend the lease by its whole duration. Returns False if *owner* has lost it."""
        return await self._write(session, envelope, owner, lease_until=_lease_end(lease))

    async def complete(
        self,
        session: AsyncSession,
        envelope: Envelope,
        *,
        owner: UUID,
        took: timedelta,
        may_have_failed: bool = False,
    ) -> bool:
        """
        Record that *envelope* is completed. Returns False if *owner* has lost the lease.

        Of a message that *may_have_failed* before, the row that says so is deleted.
        """
        completed = await self._write(
            session,
            envelope,
            owner,
            status=COMPLETED,
            owner=None,
            lease_until=None,
            processing_duration_seconds=took.total_seconds(),
            processed_at=database_now(),
        )
        if completed and may_have_failed:
            await self._failing.forget(session, [envelope.idempotency_key])
        return completed

    async def release(self, session: AsyncSession, envelope: Envelope, *, owner: UUID) -> bool:
        """Record that the attempt has failed. Returns False if *owner* has lost the lease."""
        return await self._write(
            session, envelope, owner, status=FAILED, owner=None, lease_until=None
        )

    async def _write(
        self, session: AsyncSession, envelope: Envelope, holder: UUID, /, **values: Any
    ) -> bool:
        table = processed_messages
        result = await session.execute(
            sa.update(table)
            .where(
                self._is_row_of(envelope), table.c.owner == holder, table.c.status == PROCESSING
            )
            .values(**values)
            .returning(table.c.attempts)
        )
        return result.first() is not None

    def _is_row_of(self, envelope: Envelope) -> sa.ColumnElement[bool]:
        return (processed_messages.c.consumer == self._consumer) & (
            processed_messages.c.idempotency_key == envelope.idempotency_key
        )

    def _upsert(
        self, session: AsyncSession, envelope: Envelope, lease: Lease, *, owner: UUID, attempt: int
    ) -> Any:
        insert: Any = (
            sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
        )
        table = processed_messages
        values = {
            "message_id": as_uuid(envelope.id),
            "correlation_id": envelope.correlation_id,
            "type": envelope.type,
            "status": PROCESSING,
            "attempts": attempt,
            "owner": owner,
            "lease_until": _lease_end(lease),
        }
        # The owner may claim again: it does not know whether its first claim was committed.
        is_claimable = (table.c.status == FAILED) | (table.c.owner == owner)
        if lease.on_expired is OnLeaseExpired.RETRY:
            is_claimable |= (table.c.status == PROCESSING) & (table.c.lease_until < database_now())
        return (
            insert(table)
            .values(consumer=self._consumer, idempotency_key=envelope.idempotency_key, **values)
            .on_conflict_do_update(
                index_elements=[table.c.consumer, table.c.idempotency_key],
                set_={**values, "processed_at": database_now()},
                where=is_claimable,
            )
            .returning(table.c.attempts)
        )


def _lease_end(lease: Lease) -> Any:
    return now_plus(sa.literal(lease.duration.total_seconds()))
