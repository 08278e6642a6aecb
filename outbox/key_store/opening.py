"""
Opens the keys that settings name, for a process that reads them.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from outbox.encryption import sources
from outbox.encryption.keys import KeyProvider
from outbox.encryption_settings import EncryptionSettings
from outbox.key_store import creation
from outbox.key_store.engine import key_engine, key_errors_translated, opened
from outbox.key_store.reader import SubjectKeyStore


@dataclass(frozen=True, slots=True)
class OpenedKeys:
    """The source of *keys*, and the keys of persons if they are in a key database."""

    keys: KeyProvider
    subjects: SubjectKeyStore | None


@asynccontextmanager
async def opened_keys(settings: EncryptionSettings, *, name: str) -> AsyncIterator[OpenedKeys]:
    """
    Yield the keys of *settings*, which must name a source; a key database shows us as *name*.

    Raises ConfigurationError and KeysUnavailable.
    """
    source, insecure = settings.keys or "", settings.allow_insecure
    environment = {**os.environ, "MQ_ALLOW_INSECURE": str(insecure).lower()}
    keys = await asyncio.to_thread(sources.provider, source, environment=environment)
    found = sources.subject_keys_url(source, settings.subject_keys)
    async with AsyncExitStack() as stack:
        if callable(close := getattr(keys, "close", None)):
            stack.push_async_callback(asyncio.to_thread, close)
        if found is None:
            yield OpenedKeys(keys, None)
            return
        url, setting = found
        store = subject_key_store(
            url, keys, setting=setting, allow_insecure=insecure, application_name=name
        )
        yield OpenedKeys(keys, await stack.enter_async_context(store))


@asynccontextmanager
async def subject_key_store(
    url: str,
    keys: KeyProvider,
    *,
    setting: str,
    allow_insecure: bool,
    application_name: str,
    pool_size: int = 2,
) -> AsyncIterator[SubjectKeyStore]:
    """
    Yield the keys of persons in the key database at *url*, wrapped by *keys*.

    A batch takes one of *pool_size* connections. *setting* begins each error. Raises
    ConfigurationError and KeysUnavailable.
    """
    engine = key_engine(
        url,
        setting=setting,
        allow_insecure=allow_insecure,
        application_name=application_name,
        pool_size=pool_size,
    )
    async with opened(engine):
        with key_errors_translated(setting):
            async with engine.connect() as connection:
                await creation.verify(connection, setting=setting)
        yield SubjectKeyStore(engine, keys, setting=setting)
