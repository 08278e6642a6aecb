"""
The dedup store: which messages each consumer has completed.

A row is inserted before the handler runs, in the handler's transaction. A second copy that is
handled at the same time waits for this transaction on the primary key; then it finds a completed
message, or no row. A failed attempt leaves no row that would make the next one a duplicate.

Rows of one statement are inserted in the order of their keys: two transactions with common keys
wait for each other in one order, and never deadlock.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from consumer.storage.failing import FailingMessages
from consumer.storage.inserted import raise_not_inserted
from consumer.storage.tables import COMPLETED, FAILED, as_uuid, processed_messages
from consumer.storage.values_table import ValuesTable
from outbox.database_time import database_now
from outbox.wire.envelope import Envelope

Entries: TypeAlias = Mapping[str, tuple[Envelope, int]]
"""Envelopes and the numbers of their attempts, by idempotency key."""

_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "idempotency_key": sa.Text(),
    "message_id": sa.Uuid(),
    "correlation_id": sa.Text(),
    "type": sa.Text(),
    "attempts": sa.Integer(),
}


_COMPLETED_OF_DRIVER = (
    "SELECT idempotency_key FROM processed_messages"
    f" WHERE consumer = $1 AND idempotency_key = ANY($2) AND status = '{COMPLETED}'"
)


class Dedup:
    """
    The rows of one *consumer* in `processed_messages`.

    `failing` has those of messages that have failed, which are deleted in the same transactions.
    """

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        self.failing = FailingMessages(consumer)

    async def record_completed(self, session: AsyncSession, entries: Entries) -> set[str]:
        """
        Record that *entries* are completed by the transaction of *session*.

        Returns the keys that were not completed before; waits while other transactions hold them.
        Raises DatabaseUnavailable if a trigger of the database has dropped or changed a row.
        """
        return await self._record(session, entries, status=COMPLETED)

    async def record_completed_by_driver(self, driver: Any, entries: Entries) -> set[str]:
        """The same in the transaction of *driver*, a connection of asyncpg."""
        if not entries:
            return set()
        text, names, constants = _driver_insert()
        values = zip(*_rows(entries), strict=True)
        parameters = {
            **constants,
            "of_consumer": self._consumer,
            "as_status": COMPLETED,
            **dict(zip(_messages("postgresql").parameter_names, values, strict=True)),
        }
        rows = await driver.fetch(text, *(parameters[name] for name in names))
        recorded = {key for (key,) in rows}
        if missing := entries.keys() - recorded:
            found = await driver.fetch(_COMPLETED_OF_DRIVER, self._consumer, list(missing))
            _verify_completed(missing, {key for (key,) in found})
        return recorded

    async def record_failed(
        self, session: AsyncSession, envelope: Envelope, *, attempt: int
    ) -> bool:
        """
        Record that *envelope* is dead-lettered after the failed *attempt*.

        Returns False, and changes no row, if the message is completed.
        """
        entries = {envelope.idempotency_key: (envelope, attempt)}
        return bool(await self._record(session, entries, status=FAILED))

    async def forget(self, session: AsyncSession, keys: Sequence[str]) -> None:
        """
        Delete the rows of *keys*, which the transaction of *session* has inserted.

        A row that said that the message failed before is deleted too: it is handled again next.
        """
        table = processed_messages.c
        await session.execute(
            sa.delete(processed_messages).where(
                table.consumer == self._consumer, table.idempotency_key.in_(keys)
            )
        )

    async def _record(self, session: AsyncSession, entries: Entries, *, status: str) -> set[str]:
        if not entries:
            return set()
        rows = _rows(entries)

        def execute(session: Session) -> set[str]:
            connection = session.connection()
            dialect = connection.dialect.name
            parameters = _messages(dialect).parameters(rows)
            result = connection.execute(
                _insert(dialect),
                {"of_consumer": self._consumer, "as_status": status, **parameters},
            )
            recorded = {key for (key,) in result}
            if missing := entries.keys() - recorded:
                column = processed_messages.c
                found = sa.select(column.idempotency_key).where(
                    column.consumer == self._consumer,
                    column.idempotency_key.in_(missing),
                    column.status == COMPLETED,
                )
                _verify_completed(missing, set(connection.scalars(found)))
            return recorded

        # One switch of greenlets for the connection and the statement, because each message pays.
        return await session.run_sync(execute)


def _verify_completed(missing: AbstractSet[str], completed: AbstractSet[str]) -> None:
    """Raise DatabaseUnavailable unless all keys *missing* from an upsert are *completed*."""
    # Otherwise a message that was never handled would pass for a duplicate.
    if missing - completed:
        raise_not_inserted(processed_messages)


def _rows(entries: Entries) -> list[tuple[Any, ...]]:
    return [
        (
            key,
            envelope.id if isinstance(envelope.id, UUID) else as_uuid(envelope.id),
            envelope.correlation_id,
            envelope.type,
            attempt,
        )
        for key, (envelope, attempt) in sorted(entries.items())
    ]


@cache
def _messages(dialect: str) -> ValuesTable:
    return ValuesTable(dialect, _COLUMNS)


@cache
def _insert(dialect: str) -> sa.Executable:
    """Insert messages with a status, or update those not completed; returns the keys of both."""
    # ON CONFLICT is not in the common part of SQLAlchemy, though both databases read it alike.
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    table = processed_messages
    values = {
        "consumer": sa.bindparam("of_consumer", type_=sa.Text),
        "status": sa.bindparam("as_status", type_=sa.Text),
        **{column.name: column for column in _messages(dialect).table.c},
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


@cache
def _driver_insert() -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
    """`_insert` for asyncpg: its text, the names of its parameters in order, and constants."""
    insert: Any = _insert("postgresql")
    compiled = insert.compile(dialect=asyncpg.dialect())  # type: ignore[no-untyped-call]
    return str(compiled), tuple(compiled.positiontup), compiled.params
