"""
The protocol of an erasure; see the package. The same command finishes one that a crash left.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from outbox.audit.log import Action, Audit, Filters
from outbox.database.errors import driver_errors_translated
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_tables import ACTIVE, ERASED
from outbox.encryption.keys import KeysUnavailable
from outbox.erasure import evidence, key_rows, unreadable
from outbox.erasure.batches import Report, wait_for_older
from outbox.erasure.key_rows import KeyRow
from outbox.erasure.opened import Found, Opened
from outbox.runtime.shield import commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """
    What an erasure did, or would do.

    Args:
        erased: Subjects whose keys were destroyed, also by a run that this one finished.
        erased_before: Subjects that had been erased before.
        unknown: Subjects without a key: no event names them.
        unreadable: Rows of the outbox's database that can be read no more, by table.
        unfinished: Subjects of other files whose erasure has begun, and has to be finished.

    """

    erased: int
    erased_before: int
    unknown: int
    unreadable: Mapping[str, int]
    unfinished: int


async def plan(opened: Opened, subjects: Collection[str]) -> Erasure:
    """Return what `erase` would do, and change nothing. Raises as `erase`."""
    found = await opened.find(subjects)
    pending = _pending(found, await _recorded(opened, found))
    return await _summary(opened, found, pending, await _count(opened, pending))


async def begins(opened: Opened, subjects: Collection[str]) -> bool:
    """Return whether `erase` would begin to erase one of *subjects*; raises as `plan`."""
    found = await opened.find(subjects)
    return any(row.state == ACTIVE for row in found.rows.values())


async def erase(
    opened: Opened, subjects: Collection[str], audit: Audit[Filters], *, report: Report
) -> Erasure:
    """
    Erase *subjects*; *report* is called while batches have not ended.

    Raises KeysUnavailable, DatabaseUnavailable, BatchesNotEnded, and ConfigurationError if the
    digest key is not that of the subjects.
    """
    encryptor = Encryptor(opened.keys)
    found = await opened.find(subjects)
    recorded = await _recorded(opened, found)
    pending = _pending(found, recorded)
    missing = {row.id: name for name, row in pending.items() if row.id not in recorded}
    await destroy(opened, missing, audit.run, report=report)
    counts = await _count(opened, pending)
    await _announce(opened, missing, audit, encryptor, counts)
    async with opened.key_transaction() as connection:
        await key_rows.mark_announced(connection, [row.id for row in pending.values()])
    return await _summary(opened, found, pending, counts)


async def destroy(opened: Opened, ids: Collection[UUID], run: UUID, *, report: Report) -> None:
    """
    Destroy the keys with these *ids*; *run* is about to record the evidence of them all.

    Raises BatchesNotEnded, and KeysUnavailable, also if a key is not destroyed: a failover or a
    restore may have undone the first step.
    """
    if not ids:
        return
    async with opened.key_transaction() as connection:
        await key_rows.mark_erasing(connection, ids, run)
    with opened.translated():
        await wait_for_older(opened.key_database, within=opened.wait, report=report)
    async with opened.key_transaction() as connection:
        await key_rows.destroy(connection, ids)
        if await key_rows.adopt(connection, ids, run) < len(set(ids)):
            raise KeysUnavailable(
                f"{opened.setting}: the key database has lost that keys are refused, as after a"
                " failover: run the command again"
            )


def _pending(found: Found, recorded: Collection[UUID]) -> dict[str, KeyRow]:
    """The keys that are not destroyed, or whose erasure is not announced or has no evidence."""
    return {
        name: row
        for name, row in found.rows.items()
        if row.state != ERASED or not row.is_announced or row.id not in recorded
    }


async def _recorded(opened: Opened, found: Found) -> set[UUID]:
    """
    The destroyed keys whose evidence is in the audit log.

    A run that crashed may not have said so at the keys; a restore of the outbox may have lost it.
    """
    rows = [row for row in found.rows.values() if row.state == ERASED]
    runs = {row.run for row in rows if row.run is not None}
    if not runs:
        return set()
    with driver_errors_translated(refusals=False):
        async with opened.outbox.connect() as connection:
            return await evidence.announced(connection, runs)


async def _count(opened: Opened, pending: Mapping[str, KeyRow]) -> dict[str, int]:
    with driver_errors_translated(refusals=False):
        async with opened.outbox.connect() as connection:
            return await unreadable.count(connection, [row.id for row in pending.values()])


async def _announce(
    opened: Opened,
    subjects: Mapping[UUID, str],
    audit: Audit[Filters],
    encryptor: Encryptor,
    counts: Mapping[str, int],
) -> None:
    """Record events and evidence in one transaction."""
    if not subjects:
        return
    with driver_errors_translated(refusals=False):
        async with opened.outbox.connect() as connection:
            await evidence.record_events(connection, subjects, encryptor)
            details = {"unreadable": dict(counts)}
            await evidence.record(connection, audit, Action.ERASE, subjects, details)
            await commit(connection)


async def _summary(
    opened: Opened, found: Found, pending: Mapping[str, KeyRow], counts: Mapping[str, int]
) -> Erasure:
    with opened.translated():
        async with opened.key_database.connect() as connection:
            unfinished = await key_rows.unfinished(connection)
    return Erasure(
        erased=len(pending),
        erased_before=len(found.rows) - len(pending),
        unknown=found.unknown,
        unreadable=counts,
        unfinished=unfinished,
    )
