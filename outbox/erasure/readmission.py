"""
Readmitting persons who were erased: their later events get a new key, old ones stay unreadable.
"""

from collections.abc import Collection
from dataclasses import dataclass

from outbox.audit.log import Action, Audit, Filters
from outbox.database.errors import driver_errors_translated
from outbox.encryption.encryptor import SUBJECT_SECONDS
from outbox.encryption.key_tables import ACTIVE
from outbox.erasure import evidence, key_rows
from outbox.erasure.opened import Opened
from outbox.errors import ConfigurationError
from outbox.runtime.shield import commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Readmission:
    """
    What a readmission did.

    Args:
        readmitted: Subjects that were erased, and may have events again.
        not_erased: Subjects that have a key.
        unknown: Subjects without a key, which need no readmission.

    """

    readmitted: int
    not_erased: int
    unknown: int


async def readmit(opened: Opened, subjects: Collection[str], audit: Audit[Filters]) -> Readmission:
    """
    Let *subjects* have events again; the audit log names their old keys.

    Raises KeysUnavailable, DatabaseUnavailable, and ConfigurationError if the erasure of one has
    begun and is not finished, or has ended so lately that a producer may use the old key: its
    events would be acked as those of an erased person.
    """
    found = await opened.find(subjects)
    rows = found.rows.values()
    if any(row.state != ACTIVE and not row.is_announced for row in rows):
        raise ConfigurationError(
            "--subject-file: the erasure of a subject is not finished: run `relay erase` first"
        )
    keys = [row.id for row in rows if row.state != ACTIVE]
    if any(row.is_recent for row in rows):
        raise ConfigurationError(
            f"--subject-file: a subject was erased less than {SUBJECT_SECONDS:g} seconds ago, and"
            " producers may still use the old key: run the command again later"
        )
    if keys:
        # First: a crash leaves a record of an intention, and the same command finishes it.
        with driver_errors_translated(refusals=False):
            async with opened.outbox.connect() as connection:
                await evidence.record(connection, audit, Action.READMIT, keys, {})
                await commit(connection)
        async with opened.key_transaction() as connection:
            await key_rows.detach(connection, keys)
    return Readmission(
        readmitted=len(keys), not_erased=len(found.rows) - len(keys), unknown=found.unknown
    )
