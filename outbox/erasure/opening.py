"""
Opening the two databases of an erasure, as the settings name them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database import migrate, privileges, row_access
from outbox.encryption import sources
from outbox.erasure import evidence, unreadable
from outbox.erasure.batches import alone
from outbox.erasure.opened import Opened
from outbox.errors import ConfigurationError
from outbox.key_store import engine as key_store
from outbox.settings import SharedSettings

APPLICATION = "outbox erasure"
RIGHTS = privileges.together(evidence.RIGHTS, unreadable.RIGHTS)
_CONNECTIONS = 3


@asynccontextmanager
async def opened(
    settings: SharedSettings,
    database: Callable[[], AbstractAsyncContextManager[AsyncEngine]],
    *,
    wait: timedelta,
) -> AsyncIterator[Opened]:
    """
    Open the key database of *settings*, and the outbox's *database*.

    Raises ConfigurationError, SchemaMismatch, KeysUnavailable and DatabaseUnavailable.
    """
    if settings.keys is None:
        raise ConfigurationError(f"{sources.SETTING}: is not set: an erasure needs the digest key")
    setting, url = _key_database(settings.keys, settings.subject_keys)
    # A source may ask a server.
    keys = await asyncio.to_thread(sources.provider, settings.keys)
    engine = key_store.key_engine(
        url,
        setting=setting,
        allow_insecure=settings.allow_insecure,
        application_name=APPLICATION,
        pool_size=_CONNECTIONS,
    )
    async with database() as outbox, key_store.opened(engine):
        await migrate.verify(outbox)
        await privileges.verify(outbox, RIGHTS)
        await row_access.verify(outbox, RIGHTS)
        yield Opened(engine, setting, outbox, keys, wait)


@asynccontextmanager
async def opened_alone(
    settings: SharedSettings,
    database: Callable[[], AbstractAsyncContextManager[AsyncEngine]],
    *,
    wait: timedelta,
) -> AsyncIterator[Opened]:
    """Like `opened`; raises BatchesNotEnded as well if another erasure works too long."""
    async with opened(settings, database, wait=wait) as both, AsyncExitStack() as stack:
        with both.translated():
            await stack.enter_async_context(alone(both.key_database, within=wait))
        yield both


def _key_database(keys: str, subject_keys: str | None) -> tuple[str, str]:
    """The setting that names the key database with the subjects, and its value."""
    if subject_keys is not None:
        return sources.SUBJECTS_SETTING, subject_keys
    if sources.is_database(keys):
        return sources.SETTING, keys
    raise ConfigurationError(f"{sources.SUBJECTS_SETTING}: is not set: it has the keys of persons")
