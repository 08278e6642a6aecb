"""
Changes of keys, and of whether the outbox accepts plaintext; each has a row in the audit log.

The row is written first, and committed last: a database that cannot record it keeps the source as
it is. A source that refuses the change leaves no row.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database import plaintext_trigger
from outbox.database.errors import driver_errors_translated, problem_of
from outbox.dead_letters.audit import Action, Audit
from outbox.encryption.key_ring import EncryptionKey
from outbox.encryption.managed_keys import ManagedKeys
from outbox.errors import DatabaseUnavailable
from outbox.runtime.shield import commit


async def rotate(
    engine: AsyncEngine, keys: ManagedKeys, key: EncryptionKey, audit: Audit
) -> None:
    """Add *key* to its source; raises ConfigurationError and DatabaseUnavailable."""
    details = {"key": key.id, "active_from": key.active_from.isoformat()}
    await _change(engine, lambda: keys.add(key), audit, Action.KEYS_ROTATE, details)


async def retire(
    engine: AsyncEngine, keys: ManagedKeys, key_id: str, audit: Audit, *, rows: int
) -> None:
    """Remove the key *key_id*, which *rows* still need; raises as `rotate`."""
    details = {"key": key_id, "rows": rows}
    await _change(engine, lambda: keys.remove(key_id), audit, Action.KEYS_RETIRE, details)


async def refuse_plaintext(connection: AsyncConnection, audit: Audit) -> None:
    """Let the outbox refuse plaintext, and commit."""
    await plaintext_trigger.create(connection)
    await audit.record(connection, Action.KEYS_REQUIRE, 0)
    await commit(connection)


async def allow_plaintext(connection: AsyncConnection, audit: Audit) -> None:
    """Let the outbox accept plaintext again, and commit."""
    await plaintext_trigger.drop(connection)
    await audit.record(connection, Action.KEYS_ALLOW_PLAINTEXT, 0)
    await commit(connection)


async def _change(
    engine: AsyncEngine,
    change: Callable[[], None],
    audit: Audit,
    action: Action,
    details: Mapping[str, Any],
) -> None:
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await audit.record(connection, action, 0, details)
            # In a thread: another command may hold the file.
            await asyncio.to_thread(change)
            try:
                await commit(connection)
            except Exception as error:
                raise DatabaseUnavailable(
                    f"{problem_of(error)}: the source was changed, and audit_log may lack that:"
                    f" {details['key']}"
                ) from None
