"""
The tables of a key database: made by `relay keys init`, and checked by the processes that open it.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.encryption.key_tables import VERSION, key_store, metadata
from outbox.errors import ConfigurationError
from outbox.key_store.engine import key_errors_translated


async def create(engine: AsyncEngine, *, setting: str, digest_key: bytes | None = None) -> bool:
    """
    Create the tables, and return whether they were missing.

    A database that is to be a source of keys gets its *digest_key*; one that has only the keys of
    persons gets None. Tables that exist are left as they are. Raises KeysUnavailable, and
    ConfigurationError if the database has the tables of an outbox.
    """
    with key_errors_translated(setting):
        async with engine.begin() as connection:
            if await connection.run_sync(_has_table, "outbox"):
                raise ConfigurationError(
                    f"{setting}: must be another database than MQ_DATABASE_URL: a backup would"
                    " hold the events and their keys"
                )
            if await connection.run_sync(_has_table, key_store.name):
                return False
            await connection.run_sync(metadata.create_all)
            row = {"version": VERSION, "digest_key": digest_key}
            await connection.execute(sa.insert(key_store).values(row))
            return True


async def verify(connection: AsyncConnection, *, setting: str) -> None:
    """Raise ConfigurationError if the tables have another version; driver errors stay."""
    version = await connection.scalar(sa.select(key_store.c.version))
    if version != VERSION:
        raise ConfigurationError(
            f"{setting}: the tables of keys are missing or have another version than this program:"
            " run `relay keys init`"
        )


def _has_table(connection: sa.Connection, name: str) -> bool:
    return sa.inspect(connection).has_table(name)
