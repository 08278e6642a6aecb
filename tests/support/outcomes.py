"""
Reads the outcomes of a deployment's events from its tables, once the processes have ended.
"""

import time
from datetime import datetime

import sqlalchemy as sa

from consumer.storage.tables import parked_messages
from outbox.tables import dead_letters, outbox
from tests.reliability.history import Applied, DeadLettered, Leaked, Leftover, Record, Waiting
from tests.support.builders import LEAK_MARKER
from tests.support.deployment import Deployment
from tests.support.effects import effects

MAY_HOLD_HEALTH_DATA = {"body", "ordering_key"}
STAMPED = sa.text(
    "ALTER TABLE effects ADD COLUMN applied_at timestamptz DEFAULT clock_timestamp()"
)
"""Makes Postgres record the time of each effect."""

_OPEN = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    " AND datname = current_database() AND application_name <> 'test'"
)


async def read_outcomes(deployment: Deployment) -> list[Record]:
    """The records of applied, dead-lettered and waiting events, of leftovers and of leaks."""
    now = time.time()
    return [
        *await _applied(deployment),
        *(
            DeadLettered(now, row["source"], row["message_id"], row["reason"])
            for row in await deployment.rows(dead_letters)
        ),
        *(Waiting(now, "outbox", str(row["event_id"])) for row in await deployment.rows(outbox)),
        *(
            Waiting(now, row["consumer"], row["message_id"] or "")
            for row in await deployment.rows(parked_messages)
        ),
        *await _leftovers(deployment),
        *await _leaks(deployment),
    ]


def has_times(deployment: Deployment) -> bool:
    """Whether the database records when effects happened."""
    return deployment.engine.dialect.name == "postgresql"


async def _applied(deployment: Deployment) -> list[Record]:
    stamp = sa.column("applied_at") if has_times(deployment) else sa.null()
    statement = sa.select(effects.c.event_id, effects.c.consumer, stamp.label("at"))
    async with deployment.engine.connect() as connection:
        rows = await connection.execute(statement.select_from(effects))
        return [Applied(_seconds(row.at), row.consumer, str(row.event_id)) for row in rows]


async def _leftovers(deployment: Deployment) -> list[Record]:
    if not has_times(deployment):
        return []
    async with deployment.engine.connect() as connection:
        count = await connection.scalar(_OPEN)
    return [Leftover(time.time(), "open transactions", count)] if count else []


async def _leaks(deployment: Deployment) -> list[Record]:
    pages = {"the logs of the processes": deployment.logs()}
    for table in (outbox, dead_letters, parked_messages):
        pages[f"the table {table.name}"] = "\n".join(
            str(value)
            for row in await deployment.rows(table)
            for column, value in row.items()
            if column not in MAY_HOLD_HEALTH_DATA
        )
    return [Leaked(time.time(), where) for where, page in pages.items() if LEAK_MARKER in page]


def _seconds(at: datetime | None) -> float:
    return at.timestamp() if at else 0.0
