"""
Reads the report of all keys: the rows of the outbox, the key database, and the source.
"""

import asyncio
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database import plaintext_trigger
from outbox.dead_letters.source import reading
from outbox.encryption.keys import KeyProvider
from outbox.key_operations import key_usage
from outbox.key_operations.key_report import (
    OF_SUBJECTS,
    KeysReport,
    SubjectKeyCounts,
    key_states,
    totals,
)
from outbox.key_operations.rewrap import wrapped_key


async def read(
    engine: AsyncEngine, keys: KeyProvider, subjects: SubjectKeyCounts | None
) -> KeysReport:
    """
    Return the report; it reads the first bytes of all bodies, and asks the source for each key.

    Raises DatabaseUnavailable, KeysUnavailable and ConfigurationError.
    """
    async with reading(engine) as connection:
        uses = await key_usage.by_key(connection)
        heads = {
            use.key_id: await key_usage.head(connection, use)
            for use in uses
            if use.is_encrypted and use.key_id
        }
        refuses_plaintext = await plaintext_trigger.exists(connection)
    samples = {id_: found for id_, head in heads.items() if (found := wrapped_key(head))}
    now = datetime.now(UTC)
    states = await asyncio.to_thread(
        key_states,
        keys,
        uses,
        samples if subjects is None else {**subjects.samples, **samples},
        subjects={} if subjects is None else subjects.by_key,
        now=now,
    )
    return KeysReport(
        now=now,
        keys=states,
        by_subject_keys=totals(uses, OF_SUBJECTS, is_encrypted=True),
        plain=totals(uses, None, is_encrypted=False),
        plain_since=min((use.oldest_at for use in uses if not use.is_encrypted), default=None),
        malformed=totals(uses, None, is_encrypted=True),
        refuses_plaintext=refuses_plaintext,
        subjects=subjects,
    )


async def rows_of(
    engine: AsyncEngine, key_id: str, subjects: SubjectKeyCounts | None
) -> dict[str, int]:
    """Return the numbers of rows that need the key *key_id*, by table."""
    async with reading(engine) as connection:
        rows = totals(await key_usage.by_key(connection), key_id, is_encrypted=True)
    if subjects is not None and key_id in subjects.by_key:
        rows["subject_keys"] = subjects.by_key[key_id]
    return rows
