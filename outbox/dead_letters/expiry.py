"""
The run that deletes the bodies of old dead letters, one batch per transaction.

    for each batch   BEGIN
                     lock dead letters that are old and have a body, skipping those that a replay
                     has locked
                     delete their bodies, record their number in the audit log
                     COMMIT
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action, Audit
from outbox.database.errors import driver_errors_translated
from outbox.dead_letters import body_store, expired_body
from outbox.dead_letters.selection import Selection, Snapshot
from outbox.dead_letters.store import DeadLetters, Span
from outbox.runtime.shield import commit

BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """
    Deletes the bodies of the dead letters that *audit* selects, and keeps their metadata.

    *on_expired* is called with the number of each committed batch. *stop* ends the run after the
    current batch.
    """

    engine: AsyncEngine
    store: DeadLetters
    snapshot: Snapshot
    audit: Audit[Selection]
    stop: asyncio.Event
    on_expired: Callable[[int], None]

    async def run(self) -> None:
        """Work until no such dead letter is left; raises DatabaseUnavailable."""
        where = self.audit.selection.where(self.store.source, self.snapshot)
        after = 0
        while not self.stop.is_set():
            with driver_errors_translated(refusals=False):
                async with self.engine.connect() as connection:
                    letters = await body_store.lock(
                        connection, where=where, span=Span(after, BATCH)
                    )
                    if not letters:
                        return
                    await body_store.expire(
                        connection,
                        {
                            letter["id"]: expired_body.columns(
                                headers=letter["headers"],
                                content_encoding=letter["content_encoding"],
                                start=letter["start"],
                            )
                            for letter in letters
                        },
                    )
                    # Last, because the log is locked from then on.
                    await self.audit.record(connection, Action.EXPIRE_BODIES, len(letters))
                    await commit(connection)
            self.on_expired(len(letters))
            after = letters[-1]["id"]
