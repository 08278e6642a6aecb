"""
After a restore of the key database: destroying again the keys that the audit log names.

The audit log has their ids, so that no name is needed.
"""

from dataclasses import dataclass
from uuid import UUID

from outbox.audit.log import Action, Audit, Filters
from outbox.database.errors import driver_errors_translated
from outbox.encryption.key_tables import ACTIVE, ERASED
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


@dataclass(frozen=True, slots=True)
class Returned:
    """
    The keys that a restore has brought back, as the audit log names them.

    Args:
        destroyed: Those that it says are destroyed, and that are not, or not announced.
        readmitted: All whose persons were readmitted.
        begins: Whether a key that nothing refuses is destroyed, or a person accepted again.

    """

    destroyed: frozenset[UUID]
    readmitted: frozenset[UUID]
    begins: bool


async def returned(opened: Opened) -> Returned:
    """Return the keys that are not as the audit log says; raises as `erase`."""
    erased = await named(opened, Action.ERASE)
    readmitted = await named(opened, Action.READMIT)
    with opened.translated():
        async with opened.key_database.connect() as connection:
            await creation.verify(connection, setting=opened.setting)
            rows = await key_rows.of_ids(connection, erased | readmitted)
    destroyed = [
        row for row in rows if row.id in erased and (row.state != ERASED or not row.is_announced)
    ]
    refused = [row for row in rows if row.id in readmitted and row.digest is not None]
    return Returned(
        frozenset(row.id for row in destroyed),
        frozenset(readmitted),
        begins=any(row.state == ACTIVE for row in destroyed) or (bool(refused) and not destroyed),
    )


async def erase_again(
    opened: Opened, found: Returned, audit: Audit[Filters], *, report: Report
) -> int:
    """
    Destroy the keys that were *found*, and return their number.

    A person who was readmitted may have a new key, as before the restore. Raises as `erase`.
    """
    ids = found.destroyed
    await destroy(opened, ids, audit.run, report=report)
    if ids:
        with driver_errors_translated(refusals=False):
            async with opened.outbox.connect() as connection:
                await evidence.record(connection, audit, Action.ERASE, ids, {"again": True})
                await commit(connection)
    async with opened.key_transaction() as connection:
        await key_rows.mark_announced(connection, ids)
        await key_rows.detach(connection, found.readmitted)
    return len(ids)
