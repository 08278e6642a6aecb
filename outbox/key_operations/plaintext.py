"""
Whether the outbox accepts plaintext: changed by an operator, with a row in the audit log.

It needs no keys, so nothing of `outbox.encryption` is imported.
"""

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action, Audit, StatedFilters
from outbox.database import plaintext_trigger
from outbox.database.errors import driver_errors_translated
from outbox.runtime.shield import commit


async def refuse(engine: AsyncEngine, audit: Audit[StatedFilters]) -> None:
    """Let the outbox refuse plaintext, whatever program inserts it; raises DatabaseUnavailable."""
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await plaintext_trigger.create(connection)
            await audit.record(connection, Action.KEYS_REQUIRE, 0)
            await commit(connection)


async def allow(engine: AsyncEngine, audit: Audit[StatedFilters]) -> None:
    """Let the outbox accept plaintext again; raises DatabaseUnavailable."""
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await plaintext_trigger.drop(connection)
            await audit.record(connection, Action.KEYS_ALLOW_PLAINTEXT, 0)
            await commit(connection)
