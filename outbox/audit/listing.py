"""
Rows of the audit log for people: the newest ones that match all filters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit_tables import audit_log
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated

LIMIT = 100
"""Default number of rows."""

_SHOWN = (
    *("id", "at", "run", "role", "actor", "action", "source", "messages", "because"),
    *("selection", "details", "hash"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    Filters that a row must all match.

    Args:
        since: Recorded at this time or later.
        limit: Maximum number of rows, the newest.

    """

    since: datetime | None = None
    actor: str | None = None
    action: str | None = None
    limit: int = LIMIT

    def where(self) -> sa.ColumnElement[bool]:
        """Return the condition for these rows."""
        conditions: list[sa.ColumnElement[bool]] = [sa.true()]
        if self.since is not None:
            conditions.append(audit_log.c.at >= self.since)
        if self.actor is not None:
            conditions.append(audit_log.c.actor == self.actor)
        if self.action is not None:
            conditions.append(audit_log.c.action == self.action)
        return sa.and_(*conditions)


async def listed(engine: AsyncEngine, wanted: Wanted) -> Sequence[dict[str, Any]]:
    """Return the newest rows that are *wanted*, in their order; raises DatabaseUnavailable."""
    newest = (
        sa.select(*(audit_log.c[name] for name in _SHOWN))
        .where(wanted.where())
        .order_by(audit_log.c.id.desc())
        .limit(wanted.limit)
    )
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            rows = (await connection.execute(newest)).mappings().all()
    return [dict(row) for row in reversed(rows)]
