"""
After a restore of the key database: destroying again the keys that the audit log names.

The audit log has their ids, so that no name is needed.
"""

from uuid import UUID

from outbox.audit.log import Action, Audit, Filters
from outbox.database.errors import driver_errors_translated
from outbox.encryption.key_tables import ERASED
from outbox.erasure import evidence, key_rows
from outbox.erasure.batches import Report
from outbox.erasure.erasure import destroy
from outbox.erasure.opened import Opened
from outbox.key_store import creation
from outbox.runtime.shield import commit


async def named(opened: Opened, action: Action) -> set[UUID]:
    """Return the keys that rows of *action* in the audit log name; raises DatabaseUnavailable."""
    found: set[UUID] = set()
    with driver_errors_translated(refusals=False):
        async with opened.outbox.connect() as connection:
            async for some in evidence.named(connection, action):
                found.update(some)
    return found


async def returned(opened: Opened) -> set[UUID]:
    """Return the keys that the audit log says are destroyed, and that are not."""
    erased = await named(opened, Action.ERASE)
    with opened.translated():
        async with opened.key_database.connect() as connection:
            await creation.verify(connection, setting=opened.setting)
            rows = await key_rows.of_ids(connection, erased)
    return {row.id for row in rows if row.state != ERASED or not row.is_announced}


async def erase_again(opened: Opened, audit: Audit[Filters], *, report: Report) -> int:
    """
    Destroy the keys that a restore has brought back, and return their number.

    A person who was readmitted may have a new key, as before the restore. Raises as `erase`.
    """
    ids = await returned(opened)
    await destroy(opened, ids, audit.run, report=report)
    if ids:
        with driver_errors_translated(refusals=False):
            async with opened.outbox.connect() as connection:
                await evidence.record(connection, audit, Action.ERASE, ids, {"again": True})
                await commit(connection)
    readmitted = await named(opened, Action.READMIT)
    async with opened.key_transaction() as connection:
        await key_rows.mark_announced(connection, ids)
        await key_rows.detach(connection, readmitted)
    return len(ids)
