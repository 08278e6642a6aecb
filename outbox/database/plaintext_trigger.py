"""
The trigger that refuses plaintext in the outbox, whatever program inserts it.

While it does not exist, an INSERT pays nothing for it. Its function is in migration 0012, and says
what to do; SQLite has no functions.
"""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.wire.encrypted import ENCODING

NAME = "outbox_refuse_plaintext"

LOCKED_AT_MOST = timedelta(seconds=5)
"""How long the statements wait for transactions that insert: behind them all others wait too."""

_LOCK_TIMEOUT = sa.text(f"SET LOCAL lock_timeout = '{LOCKED_AT_MOST.total_seconds():.0f}s'")
_EXISTS = {
    # A disabled trigger refuses nothing.
    "postgresql": sa.text(
        "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass('outbox')"
        f" AND tgname = '{NAME}' AND tgenabled <> 'D')"
    ),
    "sqlite": sa.text(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'outbox'"
        f" AND name = '{NAME}')"
    ),
}
_CREATE = {
    "postgresql": sa.text(
        f"CREATE TRIGGER {NAME} BEFORE INSERT ON outbox FOR EACH ROW"
        f" WHEN (NEW.content_encoding IS DISTINCT FROM '{ENCODING}')"
        f" EXECUTE FUNCTION {NAME}()"
    ),
    "sqlite": sa.text(
        f"CREATE TRIGGER {NAME} BEFORE INSERT ON outbox"
        f" WHEN NEW.content_encoding IS NOT '{ENCODING}'"
        " BEGIN SELECT RAISE(ABORT, 'outbox: the body must be encrypted before the INSERT'); END"
    ),
}
_DROP = {
    "postgresql": sa.text(f"DROP TRIGGER IF EXISTS {NAME} ON outbox"),
    "sqlite": sa.text(f"DROP TRIGGER IF EXISTS {NAME}"),
}


async def exists(connection: AsyncConnection) -> bool:
    """Return whether the outbox refuses plaintext."""
    return bool(await connection.scalar(_EXISTS[connection.dialect.name]))


async def create(connection: AsyncConnection) -> None:
    """Refuse plaintext from the end of the open transaction on; needs the owner of the table."""
    await drop(connection)  # one that was disabled, or made by hand
    await connection.execute(_CREATE[connection.dialect.name])


async def drop(connection: AsyncConnection) -> None:
    """Accept plaintext from the end of the open transaction on; needs the owner of the table."""
    if connection.dialect.name == "postgresql":
        await connection.execute(_LOCK_TIMEOUT)
    await connection.execute(_DROP[connection.dialect.name])
