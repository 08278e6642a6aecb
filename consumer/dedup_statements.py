"""
The statements that the dedup store makes for each message, built once for each dialect.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from consumer.given import Given
from consumer.tables import processed_messages
from outbox.tables import database_now

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
        took: Adds *durations* in seconds to rows that are there.

    """

    messages: Given
    record: sa.Executable
    durations: Given
    took: sa.Executable


@cache
def statements(dialect: str) -> Statements:
    """The statements for databases of this *dialect*."""
    messages = Given(
        dialect,
        {
            "idempotency_key": sa.Text(),
            "message_id": sa.Uuid(),
            "correlation_id": sa.Text(),
            "type": sa.Text(),
            "attempts": sa.Integer(),
        },
    )
    durations = Given(dialect, {"idempotency_key": sa.Text(), "seconds": sa.Double()})
    return Statements(messages, _record(dialect, messages), durations, _took(durations))


def _record(dialect: str, messages: Given) -> sa.Executable:
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


def _took(durations: Given) -> sa.Executable:
    table = processed_messages
    given = durations.table.c
    return (
        sa.update(table)
        .where(
            table.c.consumer == sa.bindparam("of_consumer", type_=sa.Text),
            table.c.idempotency_key == given.idempotency_key,
        )
        .values(processing_duration_seconds=given.seconds)
    )
