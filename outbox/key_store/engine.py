"""
The database engine for a key database.

On SQLite it has a rollback journal, and deleted keys are overwritten. On Postgres no timeout of
the server or the role ends a transaction that holds keys, and a standby is refused: an erasure
does not see the batches that read keys there.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import create_engine
from outbox.database.errors import TRANSLATED, raise_translated
from outbox.encryption.key_connection import checked_url
from outbox.encryption.keys import KeysUnavailable
from outbox.errors import ConfigurationError, DatabaseUnavailable, SchemaMismatch

LOCK_TIMEOUT = timedelta(seconds=5)
_ATTRIBUTES = "target_session_attrs"

# Postgres before 17 has no transaction_timeout.
_NO_TIMEOUTS = (
    "SELECT set_config(name, '0', {local}) FROM pg_settings"
    " WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
)
NO_TIMEOUTS_FOR_TRANSACTION = sa.text(_NO_TIMEOUTS.format(local="true"))


def key_engine(
    text: str,
    *,
    setting: str,
    allow_insecure: bool,
    application_name: str,
    pool_size: int = 2,
    create: bool = False,
) -> AsyncEngine:
    """
    Return an engine for the key database of the URL *text*; *setting* begins each error.

    With *create* a SQLite file that is missing is created. Raises ConfigurationError.
    """
    url = checked_url(text, setting=setting, allow_insecure=allow_insecure)
    is_postgres = url.get_backend_name() == "postgresql"
    if is_postgres and url.query.get(_ATTRIBUTES) != "read-write":
        url = url.update_query_dict({_ATTRIBUTES: "primary"})
    try:
        engine = create_engine(
            url,
            pool_size=pool_size,
            application_name=application_name,
            lock_timeout=LOCK_TIMEOUT,
            create=create,
            sqlite_journal="DELETE",
        )
    except SchemaMismatch:
        raise ConfigurationError(
            f"{setting}: the file does not exist: run `relay keys init`"
        ) from None
    except (ConfigurationError, ValueError) as error:
        raise ConfigurationError(str(error).replace("MQ_DATABASE_URL", setting)) from None
    if is_postgres and not is_pooled(engine):
        sa.event.listen(engine.sync_engine, "connect", _without_timeouts)
    return engine


def is_pooled(engine: AsyncEngine) -> bool:
    """Whether sessions belong to other clients as well, as behind PgBouncer."""
    return engine.url.query.get("prepared_statement_cache_size") == "0"


@asynccontextmanager
async def opened(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """Dispose of *engine* at the end."""
    try:
        yield engine
    finally:
        await engine.dispose()


@contextmanager
def key_errors_translated(setting: str) -> Iterator[None]:
    """Raise KeysUnavailable, which begins with *setting*, for the errors of a driver."""
    try:
        try:
            yield
        except TRANSLATED as error:
            raise_translated(error)
    except DatabaseUnavailable as error:
        raise keys_unavailable(setting, error) from None


def keys_unavailable(setting: str, error: DatabaseUnavailable) -> KeysUnavailable:
    """The error of a key database for *error*, which may name the setting of the other one."""
    words = str(error).replace("MQ_DATABASE_URL: ", "").replace("relay migrate", "relay keys init")
    return KeysUnavailable(f"{setting}: {words}", refused=error.refused)


def _without_timeouts(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(_NO_TIMEOUTS.format(local="false"))
    cursor.fetchall()
    cursor.close()
    connection.commit()
