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
from consumer.storage.tables import parked_messages
from outbox.tables import database_now, message_columns, now_plus
from outbox.wire.codec import WireMessage

_ROW = parked_messages.alias("row_of_lane")
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


def _first(column: str, *where: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
    """
    A *column* of the first row, by lane and id, for which *where* holds: one probe.

    The order forces the planner to probe parked_messages_lane. With few lanes it would estimate
    that a condition on the lane holds for many rows, and read all rows to find one.
    """
    return (
        sa.select(_ROW.c[column])
        .where(_ROW.c.consumer == sa.bindparam("consumer"), *where)
        .order_by(_ROW.c.lane, _ROW.c.id)
        .limit(1)
        .correlate_except(_ROW)
        .scalar_subquery()
    )


def _steps(*, again: bool) -> sa.CTE:
    """
    The lanes with rows behind `after`, or *again* those up to `until`.

    Each step goes to the next greater lane, however many rows a lane has.
    """
    up_to = [_ROW.c.lane <= sa.bindparam("until")] if again else []
    start = up_to if again else [_ROW.c.lane > sa.bindparam("after")]
    step = sa.select(_first("lane", *start).label("lane")).cte("step", recursive=True)
    following = _first("lane", _ROW.c.lane > step.c.lane, *up_to)
    return step.union_all(sa.select(following).where(step.c.lane.is_not(None)))


def _due(*, again: bool) -> dict[str, sa.Select[Any]]:
    """
    First rows of the lanes of `_steps` that are due, at most `limit`; by dialect.

    It costs two probes for each lane. The lanes are never sorted or joined as a whole: the steps
    end once there are enough rows, and only rows that are returned are locked.
    """
    step, head = _steps(again=again), parked_messages.alias("head")
    limit = sa.bindparam("limit", type_=sa.Integer)
    is_due = (head.c.id == _first("id", _ROW.c.lane >= step.c.lane)) & (
        head.c.due_at <= database_now()
    )
    # SKIP LOCKED: no waiting for a lane that another transaction attempts. A planner also does not
    # flatten a sub-select that locks: it is executed for each step, not joined with all steps.
    locked = (
        sa.select(*_columns(head))
        .where(is_due)
        .with_for_update(skip_locked=True)
        .lateral("locked")
    )
    # On SQLite the transaction has the write lock already. In a join SQLite would compute all
    # steps before the first row, and might scan the table for a filter.
    found = sa.select(head.c.id).where(is_due).correlate(step).scalar_subquery()
    ids = sa.select(found).select_from(step).where(found.is_not(None)).limit(limit)
    rows = parked_messages
    return {
        "postgresql": sa.select(locked).select_from(step.join(locked, sa.true())).limit(limit),
        "sqlite": sa.select(*_columns(rows)).where(rows.c.id.in_(ids)).order_by(rows.c.lane),
    }


def _columns(of: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    return [of.c[name] for name in ("id", "lane", "attempts", *_MESSAGE_COLUMNS)]


_MESSAGE_COLUMNS = [column.name for column in message_columns()]
_DUE, _DUE_AGAIN = _due(again=False), _due(again=True)
_IS_PARKED = sa.select(_first("lane", _ROW.c.lane >= sa.bindparam("lane")) == sa.bindparam("lane"))


class ParkedMessages:
    """The rows of one *consumer* in `parked_messages`, in the transactions of its handlers."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
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
        await session.execute(
            sa.insert(parked_messages).values(
                consumer=self._consumer,
                lane=lane,
                attempts=attempts,
                due_at=now_plus(sa.literal(wait.total_seconds())),
                **stored_message.to_columns(message),
            )
        )

    async def is_parked(self, session: AsyncSession, lane: str) -> bool:
        """Whether *lane* has rows, so that its next message must wait behind them."""
        result = await session.execute(_IS_PARKED, {"consumer": self._consumer, "lane": lane})
        return bool(result.scalar_one())

    async def next_due(self, session: AsyncSession, *, limit: int) -> list[ParkedMessage]:
        """
        The first rows of at most *limit* lanes, if they are due, locked.

        Lanes that another transaction attempts are skipped. Lanes that are left out because of
        *limit* come first in the next call. A lane that is not due costs two index probes.
        """
        after = self._after
        found = await self._select(session, _DUE, limit=limit, after=after)
        if len(found) < limit and after != _BEFORE_ALL:
            found += await self._select(session, _DUE_AGAIN, limit=limit - len(found), until=after)
        self._after = found[-1].lane if found and len(found) == limit else _BEFORE_ALL
        return found

    async def postpone(
        self, session: AsyncSession, parked: ParkedMessage, *, attempts: int, wait: timedelta
    ) -> bool:
        """
        Record that *parked* has failed *attempts* times, and is due again after *wait*.

        Returns False, and changes no row, if another transaction has attempted it meanwhile.
        """
        result = await session.execute(
            sa.update(parked_messages)
            .where(_is_unchanged(parked))
            .values(attempts=attempts, due_at=now_plus(sa.literal(wait.total_seconds())))
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
            for row in rows.mappings()
        ]


def _is_unchanged(parked: ParkedMessage) -> sa.ColumnElement[bool]:
    """The row of *parked*, unless a further attempt at it was recorded."""
    return (parked_messages.c.id == parked.id) & (parked_messages.c.attempts == parked.attempts)
