"""
Messages of an ordered consumer that wait, because an earlier one of their lane has failed.

The first row of a lane waits for its next attempt, and those behind it for their turn. As long as
a lane has rows, its further messages are parked behind them; other lanes flow.

Of what a transaction reads here each statement sees what was committed before it (READ COMMITTED).

Whether a message may be handled is asked inside the transaction that handles it, by `is_parked`.
In the one process that is active this is safe if it handles the deliveries of a lane one after
another, each when the transaction of the one before has ended:

- The one before has failed: its row was committed before we ask, and is seen.
- The last row is being attempted at the same time: it is there until the transaction that removes
  it commits, together with its effects. Before that we are parked behind it, after that we follow.

A process that ends stays the active one until it is done with what it has in flight and has told
the broker. Then the rest of its deliveries go back at once, before anybody else gets any.

One that has lost its connection, and does not know yet that another one is active, has nothing to
handle but deliveries that the other one gets again, in the same order. Each message takes effect
once, since the dedup store makes one of them wait for the other, and in order, since neither goes
on in a lane before its message is completed, parked or given up. What it can do at worst:

- park a message twice, or one that is completed: the attempt finds a duplicate, and removes it;
- complete a message late that the other one has given up, after younger ones have gone on.

The first row of a lane is the lane's lock. Who attempts it holds it locked from `next_due` to the
end of the transaction, and whoever else looks passes over the lane. A look whose snapshot is
older than the removal of a row finds that row gone, and not the one behind it. A failed attempt
that must keep the lock is rolled back to a savepoint. After a full rollback another process may
have been faster: `postpone` and `remove` change only a row that still has the attempts that it was
found with, and say whether they did.

On SQLite transactions that write exclude each other from their beginning, which is more.

Nothing here commits.
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
"""No lane is as small as this."""


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """
    The first message of a *lane*, which is to be attempted now.

    *attempts* is how often it has failed.
    """

    id: int
    lane: str
    attempts: int
    message: WireMessage = field(repr=False)


def _first(column: str, *where: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
    """
    A *column* of the first row, by lane and id, for which *where* holds: one probe.

    The order forces the planner to probe parked_messages_lane. That a lane equals something it
    takes for true of many rows, when there are few lanes, and then it reads all rows for one.
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

    That costs two probes a lane. Nothing is sorted or joined as a whole: steps end when there are
    enough rows, and no row is locked that is not taken.
    """
    step, head = _steps(again=again), parked_messages.alias("head")
    limit = sa.bindparam("limit", type_=sa.Integer)
    is_due = (head.c.id == _first("id", _ROW.c.lane >= step.c.lane)) & (
        head.c.due_at <= database_now()
    )
    # SKIP LOCKED: what another transaction attempts is not waited for. And no planner looks into a
    # sub-select that locks: it is executed step by step, not joined with all of them.
    locked = (
        sa.select(*_columns(head))
        .where(is_due)
        .with_for_update(skip_locked=True)
        .lateral("locked")
    )
    # The transaction has the write lock. In a join SQLite would take all steps before the first
    # row, and might read the table for a filter.
    found = sa.select(head.c.id).where(is_due).correlate(step).scalar_subquery()
    ids = sa.select(found).select_from(step).where(found.is_not(None)).limit(limit)
    rows = parked_messages
    return {
        "postgresql": sa.select(locked).select_from(step.join(locked, sa.true())).limit(limit),
        "sqlite": sa.select(*_columns(rows)).where(rows.c.id.in_(ids)).order_by(rows.c.lane),
    }


def _columns(of: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    return [of.c[name] for name in ("id", "lane", "attempts", *_LETTER)]


_LETTER = [column.name for column in message_columns()]
_DUE, _DUE_AGAIN = _due(again=False), _due(again=True)
_IS_PARKED = sa.select(_first("lane", _ROW.c.lane >= sa.bindparam("lane")) == sa.bindparam("lane"))


class ParkedMessages:
    """The rows of one *consumer* in `parked_messages`, in the transactions of its handlers."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        # Only whose turn it is: a lane with many rows that succeed would be the first each time.
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

        Lanes that another transaction attempts are passed over. Those that are left out because
        of *limit* come first next time. A lane that is parked and not due costs two index probes.
        """
        after = self._after
        found = await self._look(session, _DUE, limit=limit, after=after)
        if len(found) < limit and after != _BEFORE_ALL:
            found += await self._look(session, _DUE_AGAIN, limit=limit - len(found), until=after)
        self._after = found[-1].lane if found and len(found) == limit else _BEFORE_ALL
        return found

    async def postpone(
        self, session: AsyncSession, parked: ParkedMessage, *, attempts: int, wait: timedelta
    ) -> bool:
        """
        Record that *parked* has failed, *attempts* times by now, and is due again after *wait*.

        Returns False, and changes nothing, if another transaction has attempted it meanwhile.
        """
        result = await session.execute(
            sa.update(parked_messages)
            .where(_is(parked))
            .values(attempts=attempts, due_at=now_plus(sa.literal(wait.total_seconds())))
            .returning(parked_messages.c.id)
        )
        return result.first() is not None

    async def remove(self, session: AsyncSession, parked: ParkedMessage) -> bool:
        """
        Let the lane of *parked* go on: the message behind it is due at once.

        Returns False, and changes nothing, if another transaction has attempted it meanwhile.
        """
        result = await session.execute(
            sa.delete(parked_messages).where(_is(parked)).returning(parked_messages.c.id)
        )
        return result.first() is not None

    async def waiting(self, connection: AsyncConnection) -> tuple[int, timedelta | None]:
        """How many messages are parked, and for how long the oldest has been; reads them all."""
        table = parked_messages
        result = await connection.execute(
            sa.select(
                sa.func.count(), sa.func.min(table.c.parked_at), database_now().label("now")
            ).where(table.c.consumer == self._consumer)
        )
        count, oldest, now = result.one()
        return count, None if oldest is None else max(now - oldest, timedelta(0))

    async def _look(
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


def _is(parked: ParkedMessage) -> sa.ColumnElement[bool]:
    """The row of *parked*, as long as nobody has recorded a further attempt at it."""
    return (parked_messages.c.id == parked.id) & (parked_messages.c.attempts == parked.attempts)
