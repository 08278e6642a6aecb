"""
The statements that the dedup store makes for each message, built once for each dialect.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import asyncpg

from consumer.storage.tables import processed_messages
from consumer.storage.values_table import ValuesTable
from outbox.tables import database_now, now_plus

COMPLETED = "completed"
FAILED = "failed"
PROCESSING = "processing"


@dataclass(frozen=True, slots=True)
class Statements:
    """
    What is executed, and the tables of values that it takes.

    Args:
        record: Inserts *messages* with a status, or updates those that are not completed;
            returns the keys of both.
        record_durations: Adds *durations* in seconds to rows that are there.

    """

    messages: ValuesTable
    record: sa.Executable
    durations: ValuesTable
    record_durations: sa.Executable


@cache
def statements(dialect: str) -> Statements:
    """The statements for databases of this *dialect*."""
    messages = ValuesTable(
        dialect,
        {
            "idempotency_key": sa.Text(),
            "message_id": sa.Uuid(),
            "correlation_id": sa.Text(),
            "type": sa.Text(),
            "attempts": sa.Integer(),
        },
    )
    durations = ValuesTable(dialect, {"idempotency_key": sa.Text(), "seconds": sa.Double()})
    return Statements(
        messages, _record(dialect, messages), durations, _record_durations(dialect, durations)
    )


@dataclass(frozen=True, slots=True)
class DriverStatement:
    """A statement as asyncpg takes it, the *names* of its parameters in order, and constants."""

    text: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]

    def arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        """What is given with the text."""
        given = {**self.constants, **parameters}
        return [given[name] for name in self.names]


@cache
def record_statement_of_driver() -> DriverStatement:
    """`Statements.record` for Postgres."""
    record: Any = statements("postgresql").record
    compiled = record.compile(dialect=asyncpg.dialect())  # type: ignore[no-untyped-call]
    return DriverStatement(str(compiled), tuple(compiled.positiontup), compiled.params)


def _record(dialect: str, messages: ValuesTable) -> sa.Executable:
    # ON CONFLICT is not in the common part of SQLAlchemy, though both databases read it alike.
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    table = processed_messages
    given = messages.table.c
    values = {
        "consumer": sa.bindparam("of_consumer", type_=sa.Text),
        "status": sa.bindparam("as_status", type_=sa.Text),
        **{column.name: column for column in given},
    }
    rows = sa.select(*values.values())
    if dialect == "sqlite":
        # Without it SQLite takes ON CONFLICT for the condition of a join.
        rows = rows.where(sa.true())
    statement = insert(table).from_select(list(values), rows)
    new = statement.excluded
    return (  # type: ignore[no-any-return]
        statement.on_conflict_do_update(
            index_elements=[table.c.consumer, table.c.idempotency_key],
            set_={
                "message_id": new.message_id,
                "correlation_id": new.correlation_id,
                "type": new.type,
                "status": new.status,
                "attempts": new.attempts,
                "lease_until": None,
                "owner": None,
                "processed_at": database_now(),
            },
            where=table.c.status != COMPLETED,
        ).returning(table.c.idempotency_key)
    )


def _record_durations(dialect: str, durations: ValuesTable) -> sa.Executable:
    table, given = processed_messages, durations.table.c
    mine = table.c.consumer == sa.bindparam("of_consumer", type_=sa.Text)
    rows = sa.select(table.c.idempotency_key, given.seconds).where(
        mine, table.c.idempotency_key == given.idempotency_key
    )
    if dialect == "postgresql":
        # Whoever waits for none of its locks can be in no deadlock.
        rows = rows.with_for_update(of=table, skip_locked=True)
    free = rows.subquery("free")
    return (
        sa.update(table)
        .where(mine, table.c.idempotency_key == free.c.idempotency_key)
        .values(processing_duration_seconds=free.c.seconds)
    )


def long_ago(age: timedelta) -> sa.ScalarSelect[Any]:
    """
    The time *age* before now, as a bound that an index is read up to.

    A sub-select, because it is evaluated once: the clock itself may give another time for each
    row, and Postgres then reads all rows and compares each.
    """
    return sa.select(now_plus(sa.literal(-age.total_seconds()))).scalar_subquery()


def purging(
    dialect: str,
    consumer: str,
    *,
    older_than: timedelta,
    since: sa.ColumnElement[bool],
    limit: int,
) -> sa.Executable:
    """
    Deletes at most *limit* rows of *consumer* that are *older_than* this, the oldest first.

    Rows are read from processed_messages_consumer_processed_at and up to the bound, so that the
    young ones of the same consumer, and all of others, cost nothing.
    """
    table = processed_messages
    # A lease that is not over is somebody's at this moment, however long ago it began.
    leased = (table.c.status == PROCESSING) & (table.c.lease_until > database_now())
    mine = table.c.consumer == sa.bindparam("of_consumer", consumer, type_=sa.Text)
    old = (
        sa.select(table.c.idempotency_key)
        .where(
            mine,
            table.c.processed_at < long_ago(older_than),
            since,
            sa.not_(sa.func.coalesce(leased, sa.false())),
        )
        .order_by(table.c.processed_at)
        .limit(limit)
    )
    if dialect == "sqlite":
        doomed: sa.ColumnElement[bool] = mine & table.c.idempotency_key.in_(old)
    else:
        # SKIP LOCKED: what somebody is at is left for the next time, and nobody waits for nobody.
        # By their places rather than by their keys: no statistics, however old, make of that a
        # walk through the table. A row that was changed meanwhile is found at its new place,
        # which this statement does not see yet, and stays.
        places = old.with_only_columns(_PLACE).with_for_update(skip_locked=True)
        doomed = sa.any_(sa.func.array(places.scalar_subquery())) == _PLACE
    return sa.delete(table).where(doomed).returning(table.c.processed_at)


_PLACE: sa.ColumnElement[Any] = sa.literal_column("processed_messages.ctid")
