"""
The statements that find lanes with parked messages; see `parked` for what they promise.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from consumer.storage.tables import parked_messages
from outbox.database_time import database_now
from outbox.tables import MAX_ATTEMPTS, message_columns

_BEGINS_LIKE_A_TIME = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"

_ROW = parked_messages.alias("row_of_lane")


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
    start, up_to = _bounds(again=again)
    step = sa.select(_first("lane", *start).label("lane")).cte("step", recursive=True)
    following = _first("lane", _ROW.c.lane > step.c.lane, *up_to)
    return step.union_all(sa.select(following).where(step.c.lane.is_not(None)))


def _bounds(
    *, again: bool
) -> tuple[Sequence[sa.ColumnElement[bool]], Sequence[sa.ColumnElement[bool]]]:
    """The conditions on the first lane, and on all lanes."""
    up_to = [_ROW.c.lane <= sa.bindparam("until")] if again else []
    return up_to if again else [_ROW.c.lane > sa.bindparam("after")], up_to


def _due_on_sqlite(*, again: bool) -> sa.Select[Any]:
    """
    Like `_due`. The transaction has the write lock already, so that no row has to be locked.

    SQLite may compute all steps before it reads the first one, as it does from 3.41 on, whatever
    the LIMIT of the select around them. So the steps count the rows that they have found, and end
    by themselves.
    """
    start, up_to = _bounds(again=again)
    head, limit = parked_messages.alias("head"), sa.bindparam("limit", type_=sa.Integer)

    def due(*where: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        is_due = (head.c.id == _first("id", *where)) & _is_due_on_sqlite(head)
        return sa.select(head.c.id).where(is_due).correlate_except(head).scalar_subquery()

    step = sa.select(
        _first("lane", *start).label("lane"),
        due(*start).label("id"),
        sa.literal(0).label("found_before"),
    ).cte("step", recursive=True)
    found = step.c.found_before + sa.case((step.c.id.is_not(None), 1), else_=0)
    behind = [_ROW.c.lane > step.c.lane, *up_to]
    step = step.union_all(
        sa.select(_first("lane", *behind), due(*behind), found).where(
            step.c.lane.is_not(None), found < limit
        )
    )
    rows = parked_messages
    ids = sa.select(step.c.id).where(step.c.id.is_not(None))
    return sa.select(*_columns(rows)).where(rows.c.id.in_(ids)).order_by(rows.c.lane)


def _is_due_on_sqlite(of: sa.FromClause) -> sa.ColumnElement[bool]:
    """
    Whether a row is due. One with a value that is no time is due at once.

    SQLite stores values of any type, and compares those of different types by their type: such a
    row would hold back its lane for ever.
    """
    stored = sa.type_coerce(of.c.due_at, sa.Text)
    return sa.or_(
        of.c.due_at <= database_now(),
        sa.func.typeof(stored, type_=sa.Text) != "text",
        stored.op("NOT GLOB", return_type=sa.Boolean())(_BEGINS_LIKE_A_TIME),
    )


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
    return {
        "postgresql": sa.select(locked).select_from(step.join(locked, sa.true())).limit(limit),
        "sqlite": _due_on_sqlite(again=again),
    }


def attempts_of(of: sa.FromClause) -> sa.ColumnElement[int]:
    """The column `attempts` as a number of attempts, whatever SQLite has stored there."""
    stored = sa.cast(of.c.attempts, sa.Integer)
    return sa.case((stored < 0, 0), (stored > MAX_ATTEMPTS, MAX_ATTEMPTS), else_=stored)


def _columns(of: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    return [
        of.c.id,
        of.c.lane,
        attempts_of(of).label("attempts"),
        *(of.c[name] for name in _MESSAGE_COLUMNS if name != "body"),
        # SQLite stores text and numbers in this column too.
        sa.cast(of.c.body, sa.LargeBinary).label("body"),
    ]


_MESSAGE_COLUMNS = [column.name for column in message_columns()]
DUE, DUE_AGAIN = _due(again=False), _due(again=True)
IS_PARKED = sa.select(_first("lane", _ROW.c.lane >= sa.bindparam("lane")) == sa.bindparam("lane"))
