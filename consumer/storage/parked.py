"""
Parked messages: they wait in the database because an earlier message of their lane has failed.

The first row of a lane waits for its next attempt, and the rows behind it for their turn. While a
lane has rows, its further messages are parked behind them; other lanes are not delayed.

Each statement sees all that was committed before the statement began (READ COMMITTED).

**One active process.** The transaction that handles a message asks by `is_parked` whether it may
be handled. This is safe if the process handles the deliveries of a lane one after another, each
after the transaction of the one before has ended:

- If the message before has failed, its row was committed before `is_parked` asks, and is seen.
- If the last row of the lane is attempted at the same time, the row exists until the transaction
  that removes it commits, together with the effects. A message that asks before this commit is
  parked behind the row; a message that asks after it follows in order.

**The active process ends.** It stays the active one until its batches in flight have ended and it
has acked their deliveries. Then the broker requeues the rest of its deliveries at once, before
another process gets any.

**The active process loses its connection** and does not know yet that another one is active. It
can handle only deliveries that the other process gets as well, in the same order. Each message
takes effect once, because one of the two waits for the other on the dedup row. Messages take
effect in order, because neither process continues a lane before the message is completed, parked
or dead-lettered. The worst that the first process can do:

- park a message twice, or park a completed one: its attempt finds a duplicate and removes the row;
- complete a message late that the other process has dead-lettered, after younger ones of the lane.

**The first row of a lane is the lane's lock.** A process that attempts it holds it locked from
`next_due` to the end of the transaction, and every other `next_due` skips the lane. If a row was
removed after the snapshot of a `next_due`, that call finds the row gone, and does not yet take the
next row for the first. A failed attempt that must keep the lock is rolled back to a savepoint.
After a full rollback another process may have attempted the message: `postpone` and `remove`
change only a row whose number of attempts is unchanged, and return whether they did.

On SQLite the guarantees are stronger: transactions that write exclude each other from their start.

No function of this module commits.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from consumer.storage import stored_message
from consumer.storage.inserted import verify_inserted
from consumer.storage.parked_statements import DUE, DUE_AGAIN, IS_PARKED, attempts_of
from consumer.storage.tables import COMPLETED, ago, parked_messages, processed_messages
from outbox.database_time import database_now, now_plus
from outbox.wire.codec import WireMessage

_BEFORE_ALL = ""
"""Less than every lane."""


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """
    The first message of a *lane*, which is due; it has failed *attempts* times.
    """

    id: int
    lane: str
    attempts: int
    message: WireMessage = field(repr=False)


class ParkedMessages:
    """
    The rows of one *consumer* in `parked_messages`, in the transactions of its handlers.

    A message that has been parked for longer than *bodies_kept* is expired; None: it never is.
    """

    def __init__(self, consumer: str, *, bodies_kept: timedelta | None = None) -> None:
        self._consumer = consumer
        self._bodies_kept = bodies_kept
        # `next_due` continues behind this lane. Otherwise a lane with many due rows would be the
        # first each time.
        self._after = _BEFORE_ALL

    async def park(
        self,
        session: AsyncSession,
        message: WireMessage,
        *,
        lane: str,
        attempts: int,
        wait: timedelta,
    ) -> None:
        """
        Put *message*, which has failed *attempts* times, behind all others of its *lane*.

        It is due after *wait*, but not before it is the first of its lane.
        """
        result = await session.execute(
            sa.insert(parked_messages).values(
                consumer=self._consumer,
                lane=lane,
                attempts=attempts,
                due_at=now_plus(sa.literal(wait.total_seconds())),
                **stored_message.to_columns(message),
            )
        )
        verify_inserted(result, parked_messages)

    async def is_parked(self, session: AsyncSession, lane: str) -> bool:
        """Whether *lane* has rows, so that its next message must wait behind them."""
        result = await session.execute(IS_PARKED, {"consumer": self._consumer, "lane": lane})
        return bool(result.scalar_one())

    async def is_completed(self, session: AsyncSession, key: str) -> bool:
        """Whether the message with this idempotency *key* is completed."""
        table = processed_messages.c
        is_row = (table.consumer == self._consumer) & (table.idempotency_key == key)
        found = await session.scalar(sa.select(table.status).where(is_row))
        return bool(found == COMPLETED)

    async def next_due(self, session: AsyncSession, *, limit: int) -> list[ParkedMessage]:
        """
        The first rows of at most *limit* lanes, if they are due, locked.

        Lanes that another transaction attempts are skipped. Lanes that are left out because of
        *limit* come first in the next call. A lane that is not due costs two index probes.
        """
        after = self._after
        found = await self._select(session, DUE, limit=limit, after=after)
        if len(found) < limit and after != _BEFORE_ALL:
            found += await self._select(session, DUE_AGAIN, limit=limit - len(found), until=after)
        self._after = found[-1].lane if found and len(found) == limit else _BEFORE_ALL
        return found

    async def is_expired(self, session: AsyncSession, parked: ParkedMessage) -> bool:
        """Whether *parked* has been parked for too long; costs no statement if it never is."""
        if self._bodies_kept is None:
            return False
        is_old = (parked_messages.c.id == parked.id) & _is_older(self._bodies_kept)
        return await session.scalar(sa.select(parked_messages.c.id).where(is_old)) is not None

    async def hasten_expired(self, session: AsyncSession) -> None:
        """
        Make messages that are expired due at once; reads all rows.

        A row that a transaction attempts is skipped: after a failure it is due later, and the next
        call finds it. No row changes its place in its lane.
        """
        if self._bodies_kept is None:
            return
        table = parked_messages
        expired = (
            sa.select(table.c.id)
            .where(
                table.c.consumer == self._consumer,
                table.c.due_at > database_now(),
                _is_older(self._bodies_kept),
            )
            .with_for_update(skip_locked=True)
        )
        await session.execute(
            sa.update(table).where(table.c.id.in_(expired)).values(due_at=database_now())
        )

    async def lock(self, session: AsyncSession, parked: ParkedMessage) -> bool:
        """Lock *parked* again; False if another transaction has it, or has changed it."""
        result = await session.execute(
            sa.select(parked_messages.c.id)
            .where(_is_unchanged(parked))
            .with_for_update(skip_locked=True)
        )
        return result.first() is not None

    async def postpone(
        self,
        session: AsyncSession,
        parked: ParkedMessage,
        *,
        attempts: int,
        wait: timedelta,
        **changes: Any,
    ) -> bool:
        """
        Record that *parked* has failed *attempts* times, and is due again after *wait*.

        *changes* are those of other columns.
        Returns False, and changes no row, if another transaction has attempted it meanwhile.
        """
        due_at = now_plus(sa.literal(wait.total_seconds()))
        result = await session.execute(
            sa.update(parked_messages)
            .where(_is_unchanged(parked))
            .values(attempts=attempts, due_at=due_at, **changes)
            .returning(parked_messages.c.id)
        )
        return result.first() is not None

    async def remove(self, session: AsyncSession, parked: ParkedMessage) -> bool:
        """
        Delete the row of *parked*: the next message of its lane is due at once.

        Returns False, and deletes no row, if another transaction has attempted it meanwhile.
        """
        result = await session.execute(
            sa.delete(parked_messages).where(_is_unchanged(parked)).returning(parked_messages.c.id)
        )
        return result.first() is not None

    async def waiting(self, connection: AsyncConnection) -> tuple[int, timedelta | None]:
        """The number of parked messages, and the age of the oldest; reads all rows."""
        table = parked_messages
        result = await connection.execute(
            sa.select(
                sa.func.count(), sa.func.min(table.c.parked_at), database_now().label("now")
            ).where(table.c.consumer == self._consumer)
        )
        count, oldest, now = result.one()
        return count, None if oldest is None else max(now - oldest, timedelta(0))

    async def _select(
        self, session: AsyncSession, statements: dict[str, sa.Select[Any]], **parameters: Any
    ) -> list[ParkedMessage]:
        rows = await session.execute(
            statements[session.get_bind().dialect.name],
            {"consumer": self._consumer, **parameters},
        )
        return [
            ParkedMessage(
                row["id"], row["lane"], row["attempts"], stored_message.from_columns(row)
            )
            for row in map(stored_message.readable, rows.mappings())
        ]


def _is_older(than: timedelta) -> sa.ColumnElement[bool]:
    return parked_messages.c.parked_at <= ago(than)


def _is_unchanged(parked: ParkedMessage) -> sa.ColumnElement[bool]:
    """The row of *parked*, unless a further attempt at it was recorded."""
    return (parked_messages.c.id == parked.id) & (attempts_of(parked_messages) == parked.attempts)
