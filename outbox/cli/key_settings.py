"""
What the commands `relay keys` need: settings, the database, and who runs them and why.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Audit, StatedFilters, user_and_host
from outbox.cli.dead_letter_reason import FOR_CHANGES
from outbox.database import migrate, privileges, row_access
from outbox.database.privileges import Rights
from outbox.dead_letters.selection import words

SOURCE = "relay"
"""The source in the audit log: keys belong to the installation, as the outbox does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """
    The settings that the commands need.

    Args:
        keys: MQ_ENCRYPTION_KEYS; None if it is not set.
        subjects: MQ_SUBJECT_KEYS_URL, likewise.
        database: Opens the database of the outbox.

    """

    keys: str | None = field(repr=False)
    subjects: str | None = field(repr=False)
    allow_insecure: bool
    database: Callable[[], AbstractAsyncContextManager[AsyncEngine]]

    @asynccontextmanager
    async def opened(self, rights: Rights) -> AsyncIterator[AsyncEngine]:
        """
        Open the database, in which the command needs *rights* on all rows.

        Raises SchemaMismatch and DatabaseUnavailable.
        """
        async with self.database() as engine:
            await migrate.verify(engine)
            if rights:
                await privileges.verify(engine, rights)
                await row_access.verify(engine, rights)
            yield engine


def audit_of(because: str | None, by: str | None, **filters: Any) -> Audit[StatedFilters]:
    """Return the audit of one run; raises ConfigurationError without a reason."""
    return Audit(
        actor=words("--by", user_and_host() if by is None else by, needed="is empty"),
        because=words("--because", because, needed=FOR_CHANGES),
        source=SOURCE,
        selection=StatedFilters(filters),
    )
