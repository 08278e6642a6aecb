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
from outbox.runtime import process

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


@dataclass(frozen=True, slots=True)
class KeyStore:
    """The key database of *engine*; *setting* begins each error about it."""

    engine: AsyncEngine
    setting: str


@asynccontextmanager
async def subject_store(settings: KeySettings) -> AsyncIterator[KeyStore | None]:
    """Open the key database with the keys of persons; None if none is configured."""
    from outbox.encryption import sources  # noqa: PLC0415 - cryptography is an extra
    from outbox.key_store import engine as key_store  # noqa: PLC0415

    text, setting = settings.subjects, sources.SUBJECTS_SETTING
    if text is None and settings.keys is not None and sources.is_database(settings.keys):
        text, setting = settings.keys, sources.SETTING
    if text is None:
        yield None
        return
    engine = key_store.key_engine(
        text,
        setting=setting,
        allow_insecure=settings.allow_insecure,
        application_name=process.name("relay keys"),
    )
    async with key_store.opened(engine):
        yield KeyStore(engine, setting)


def audit_of(because: str | None, by: str | None, **filters: Any) -> Audit[StatedFilters]:
    """Return the audit of one run; raises ConfigurationError without a reason."""
    return Audit(
        actor=words("--by", user_and_host() if by is None else by, needed="is empty"),
        because=words("--because", because, needed=FOR_CHANGES),
        source=SOURCE,
        selection=StatedFilters(filters),
    )
