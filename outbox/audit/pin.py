"""
The head of the audit log, and its event for another system, which can keep it.
"""

from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.audit.chain import Head
from outbox.audit.log import Action, Audit, Filters, StatedFilters
from outbox.audit_tables import audit_head, audit_log
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.database.privileges import Rights
from outbox.event import Event
from outbox.record import insert
from outbox.tables import outbox

EVENT_TYPE = "audit.head"
RIGHTS: Rights = {
    audit_head: ("SELECT",),
    audit_log: ("INSERT",),
    outbox: ("INSERT",),
}
"""The rights that the event needs."""


async def head_of(engine: AsyncEngine) -> Head:
    """Return the head of the log; raises DatabaseUnavailable."""
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            return await _head(connection)


async def publish(engine: AsyncEngine, audit: Audit[Filters]) -> Head:
    """
    Record the head of the log as an event in the outbox, and the act in the log.

    The act is a row behind that head. Raises DatabaseUnavailable.
    """
    with driver_errors_translated(refusals=False):
        async with engine.begin() as connection:
            head = await _head(connection)
            payload = {"log": audit.source, "rows": head.rows, "hash": head.hash.hex()}
            await connection.execute(insert(Event(EVENT_TYPE, payload)))
            pinned = replace(audit, selection=StatedFilters())
            await pinned.record(connection, Action.PIN, 0, {"head": str(head)})
    return head


async def _head(connection: AsyncConnection) -> Head:
    row = (await connection.execute(sa.select(audit_head.c.rows, audit_head.c.hash))).first()
    return Head() if row is None else Head(row.rows, row.hash)
