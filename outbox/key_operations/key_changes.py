"""
Keys that are added to their source or removed; each change has a row in the audit log.

The row is written first, and committed last: a database that cannot record it keeps the source as
it is. A source that refuses the change leaves no row.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action, Audit, StatedFilters
from outbox.database.errors import TRANSLATED, driver_errors_translated, problem_of
from outbox.encryption.key_ring import EncryptionKey
from outbox.encryption.managed_keys import ManagedKeys
from outbox.errors import DatabaseUnavailable
from outbox.runtime.shield import commit

KeyAudit: TypeAlias = Audit[StatedFilters]
"""One run of a command on keys."""


async def rotate(
    engine: AsyncEngine, keys: ManagedKeys, key: EncryptionKey, audit: KeyAudit
) -> None:
    """Add *key* to its source; raises ConfigurationError and DatabaseUnavailable."""
    details = {"key": key.id, "active_from": key.active_from.isoformat()}
    await _change(engine, lambda: keys.add(key), audit, Action.KEYS_ROTATE, details)


async def retire(
    engine: AsyncEngine, keys: ManagedKeys, key_id: str, audit: KeyAudit, *, rows: int
) -> None:
    """Remove the key *key_id*, which *rows* still need; raises as `rotate`."""
    details = {"key": key_id, "rows": rows}
    await _change(engine, lambda: keys.remove(key_id), audit, Action.KEYS_RETIRE, details)


async def _change(
    engine: AsyncEngine,
    change: Callable[[], None],
    audit: KeyAudit,
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
            except TRANSLATED as error:
                raise DatabaseUnavailable(
                    f"{problem_of(error)}: the source was changed, and audit_log may lack that:"
                    f" {details['key']}"
                ) from None
