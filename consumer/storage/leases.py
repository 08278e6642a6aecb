"""
Leases on messages whose effects are outside of the database.

    free ──claim──▶ processing (owner, lease_until) ──complete──▶ completed
                       │  ▲ extend                └──release──▶ failed
                       ▼  │
                    lease over: claimed by another, or stopped for a human

Who claims carries the proof: every later write asks for its owner, and finds no row once another
has taken the message over. Times are the database's.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from consumer.handler import Lease, OnLeaseExpired
from consumer.storage.tables import COMPLETED, FAILED, PROCESSING, processed_messages
from outbox.tables import database_now, now_plus
from outbox.wire.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Held:
    """The message is *owner*'s until the lease is over."""

    owner: UUID


@dataclass(frozen=True, slots=True)
class Completed:
    """It was done before."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another has it, for *remaining* at least."""

    remaining: timedelta


@dataclass(frozen=True, slots=True)
class Over:
    """Another had it, and did not end in time."""


Claim: TypeAlias = Held | Completed | Busy | Over


class Leases:
    """The leases of one *consumer*, in `processed_messages`."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def claim(
        self, session: AsyncSession, envelope: Envelope, lease: Lease, *, owner: UUID, attempt: int
    ) -> Claim:
        """Have *envelope* for *owner*, unless it is done, or another has it."""
        upsert = self._upsert(session, envelope, lease, owner=owner, attempt=attempt)
        if (await session.execute(upsert)).first() is not None:
            return Held(owner)
        table = processed_messages
        row = (
            await session.execute(
                sa.select(table.c.status, table.c.lease_until, database_now().label("now")).where(
                    self._is(envelope)
                )
            )
        ).one_or_none()
        if row is None:
            # Purged in between: the next claim finds it free.
            return Busy(timedelta(0))
        if row.status == COMPLETED:
            return Completed()
        left: timedelta = row.lease_until - row.now
        if left <= timedelta(0) and lease.on_expired is OnLeaseExpired.DEAD_LETTER:
            return Over()
        # One that has ended since the attempt to claim it is for the next claim to take over.
        return Busy(max(left, timedelta(0)))

    async def extend(
        self, session: AsyncSession, envelope: Envelope, lease: Lease, *, owner: UUID
    ) -> bool:
        """Begin the lease anew. Returns False if it is no longer *owner*'s."""
        return await self._write(session, envelope, owner, lease_until=_end_of(lease))

    async def complete(
        self, session: AsyncSession, envelope: Envelope, *, owner: UUID, took: timedelta
    ) -> bool:
        """Record that *envelope* is done. Returns False if it is no longer *owner*'s."""
        return await self._write(
            session,
            envelope,
            owner,
            status=COMPLETED,
            owner=None,
            lease_until=None,
            processing_duration_seconds=took.total_seconds(),
            processed_at=database_now(),
        )

    async def release(self, session: AsyncSession, envelope: Envelope, *, owner: UUID) -> bool:
        """Record that the attempt has failed. Returns False if it is no longer *owner*'s."""
        return await self._write(
            session, envelope, owner, status=FAILED, owner=None, lease_until=None
        )

    async def _write(
        self, session: AsyncSession, envelope: Envelope, holder: UUID, /, **values: Any
    ) -> bool:
        table = processed_messages
        result = await session.execute(
            sa.update(table)
            .where(self._is(envelope), table.c.owner == holder, table.c.status == PROCESSING)
            .values(**values)
            .returning(table.c.attempts)
        )
        return result.first() is not None

    def _is(self, envelope: Envelope) -> sa.ColumnElement[bool]:
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
            "message_id": envelope.id,
            "correlation_id": envelope.correlation_id,
            "type": envelope.type,
            "status": PROCESSING,
            "attempts": attempt,
            "owner": owner,
            "lease_until": _end_of(lease),
        }
        # One that is the owner's already, who has not heard of the commit.
        free = (table.c.status == FAILED) | (table.c.owner == owner)
        if lease.on_expired is OnLeaseExpired.RETRY:
            free |= (table.c.status == PROCESSING) & (table.c.lease_until < database_now())
        return (
            insert(table)
            .values(consumer=self._consumer, idempotency_key=envelope.idempotency_key, **values)
            .on_conflict_do_update(
                index_elements=[table.c.consumer, table.c.idempotency_key],
                set_={**values, "processed_at": database_now()},
                where=free,
            )
            .returning(table.c.attempts)
        )


def _end_of(lease: Lease) -> Any:
    return now_plus(sa.literal(lease.duration.total_seconds()))
