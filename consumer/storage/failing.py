"""
Messages whose handler has failed, with the class and the place of the last error.

    recorded    before the copy for the next attempt is published, or as the message is parked
    forgotten   in the transaction that completes the message, or that dead-letters it
    purged      with the retention, if the message never came again

A row informs people, and decides nothing: it may be missing because the database was unavailable.
A message that succeeds at its first delivery costs no statement here.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from consumer.storage.tables import ago, digest_of, failing_messages
from consumer.storage.values_table import ValuesTable
from outbox.database.engine import NOT_DURABLE, waiting_at_most
from outbox.database.errors import with_deadline
from outbox.database_time import database_now, now_plus
from outbox.errors import UnreadableMessage
from outbox.runtime.error_summary import ErrorSummary
from outbox.runtime.loggable_ids import loggable
from outbox.wire.codec import WireMessage, identity_of
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER

RECORDED_WITHIN = timedelta(seconds=1)
"""A message waits no longer than this for its row, and goes on without one."""

PURGE_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """Attempt number *attempt* at *message* has failed; the next one follows after *wait*."""

    message: WireMessage
    attempt: int
    wait: timedelta
    summary: ErrorSummary


@dataclass(frozen=True, slots=True)
class LastFailure:
    """The last error of a message, and the time of its first one."""

    summary: ErrorSummary
    first_at: datetime


class FailingMessages:
    """The rows of one *consumer* in `failing_messages`."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def record_at_once(self, engine: AsyncEngine, failed: Sequence[FailedAttempt]) -> None:
        """
        Record *failed* in a transaction of their own, if that takes no longer than a second.

        One statement without BEGIN and COMMIT on Postgres, and without a wait for the disk on
        SQLite. Raises DatabaseUnavailable.
        """
        is_postgres = engine.dialect.name == "postgresql"
        options: dict[str, Any] = (
            {"isolation_level": "AUTOCOMMIT"}
            if is_postgres
            # A deadline does not end a wait in the thread of SQLite.
            else NOT_DURABLE | waiting_at_most(RECORDED_WITHIN)
        )
        async with with_deadline(RECORDED_WITHIN), engine.connect() as connection:
            await connection.execution_options(**options)
            await self._record(connection, failed)
            await connection.commit()

    async def record(self, session: AsyncSession, failed: FailedAttempt) -> None:
        """Record *failed* in the transaction of *session*."""
        await self._record(await session.connection(), [failed])

    async def forget(self, session: AsyncSession, keys: Collection[str]) -> bool:
        """
        Delete the rows of the messages with these idempotency *keys*, in that of *session*.

        Returns whether there were any.
        """
        deleted: Any = await session.execute(
            sa.delete(failing_messages).where(self._are(map(digest_of, keys)))
        )
        return bool(deleted.rowcount)

    async def take(self, session: AsyncSession, message: WireMessage) -> LastFailure | None:
        """Delete the row of *message* in the transaction of *session*, and return its content."""
        key = key_of(message)
        if key is None:
            return None
        table = failing_messages.c
        deleted = await session.execute(
            sa.delete(failing_messages)
            .where(self._are([digest_of(key)]))
            .returning(table.error_class, table.error_place, table.first_at)
        )
        row = deleted.first()
        if row is None:
            return None
        return LastFailure(ErrorSummary(row.error_class, row.error_place), row.first_at)

    async def purge(self, connection: AsyncConnection, *, older_than: timedelta) -> None:
        """
        Delete rows of messages that should have come again longer ago than *older_than*.

        At most `PURGE_LIMIT`, read from failing_messages_consumer_last_at; rows that other
        transactions have locked stay for the next purge, so that no transaction waits.
        """
        table = failing_messages.c
        old = (
            sa.select(table.message)
            .where(
                table.consumer == self._consumer,
                table.last_at < ago(older_than),
                table.due_at < ago(older_than),
            )
            .order_by(table.last_at)
            .limit(PURGE_LIMIT)
            .with_for_update(skip_locked=True)
        )
        is_old = (table.consumer == self._consumer) & table.message.in_(old)
        await connection.execute(sa.delete(failing_messages).where(is_old))

    async def _record(self, connection: AsyncConnection, failed: Sequence[FailedAttempt]) -> None:
        """Sorted rows, so that two transactions with common messages never deadlock."""
        # One of two copies of a message, because a statement updates no row twice.
        rows = {row[0]: row for each in failed if (row := _row(each)) is not None}
        if not rows:
            return
        dialect = connection.dialect.name
        parameters = _given(dialect).parameters([rows[key] for key in sorted(rows)])
        await connection.execute(_upsert(dialect), {"of_consumer": self._consumer, **parameters})

    def _are(self, messages: Any) -> sa.ColumnElement[bool]:
        table = failing_messages.c
        return (table.consumer == self._consumer) & table.message.in_(list(messages))


def key_of(message: WireMessage) -> str | None:
    """The idempotency key of *message*, however malformed the rest of it is; None without one."""
    key = message.headers.get(IDEMPOTENCY_KEY_HEADER)
    if isinstance(key, str) and key:
        return key
    try:
        return str(identity_of(message.message_id))
    except UnreadableMessage:
        return None


def _row(failed: FailedAttempt) -> tuple[Any, ...] | None:
    message = failed.message
    if (key := key_of(message)) is None:
        return None
    return (
        digest_of(key),
        # As the log has it: another program may have taken the number of a person for an id.
        loggable(message.message_id) if message.message_id else None,
        message.type,
        failed.summary.error_class,
        failed.summary.place,
        failed.attempt,
        failed.wait.total_seconds(),
    )


@cache
def _given(dialect: str) -> ValuesTable:
    text, number = sa.Text(), sa.Integer()
    columns: dict[str, sa.types.TypeEngine[Any]] = {
        "message": text,
        "message_id": text,
        "type": text,
        "error_class": text,
        "error_place": text,
        "attempts": number,
        "wait_seconds": sa.Double(),
    }
    return ValuesTable(dialect, columns)


@cache
def _upsert(dialect: str) -> Any:
    """Insert messages, or update those that have failed before; `first_at` stays."""
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    table, given = failing_messages, _given(dialect).table
    copied = [column for column in given.c if column.name != "wait_seconds"]
    values = {
        "consumer": sa.bindparam("of_consumer", type_=sa.Text),
        **{column.name: column for column in copied},
        "due_at": now_plus(given.c.wait_seconds),
    }
    rows = sa.select(*values.values())
    if dialect == "sqlite":
        # Without it SQLite takes ON CONFLICT for the condition of a join.
        rows = rows.where(sa.true())
    statement = insert(table).from_select(list(values), rows)
    new = statement.excluded
    kept = {"consumer", "message"}
    return statement.on_conflict_do_update(
        index_elements=[table.c.consumer, table.c.message],
        set_={
            **{name: new[name] for name in values if name not in kept},
            "last_at": database_now(),
        },
    )
