"""
Opens the keys of persons for a process that reads them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from outbox.encryption.keys import KeyProvider
from outbox.key_store import creation
from outbox.key_store.engine import key_engine, key_errors_translated, opened
from outbox.key_store.reader import SubjectKeyStore


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
