"""
The secret of a database, with which its relays hash ordering keys.
"""

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import DEFERRED
from outbox.database.errors import NO_PRIVILEGE, driver_errors_translated, sqlstate
from outbox.errors import SchemaMismatch
from outbox.tables import ordering_secret

# Bytes: 16 are beyond any brute-force search, and BLAKE2b takes at most 64.
SHORTEST, LONGEST = 16, 64

_MISSING = (
    "ordering_secret: there must be one row; restore it from a backup, or see"
    " docs/explanation/ordering.md for a new secret"
)


async def read(engine: AsyncEngine) -> bytes:
    """
    The secret in the database of *engine*.

    Raises SchemaMismatch unless the table has exactly one row with 16 to 64 bytes, or if the role
    may not read it, and DatabaseUnavailable.
    """
    with driver_errors_translated():
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            try:
                # Of two rows, two relays could read different ones.
                result = await connection.scalars(sa.select(ordering_secret.c.secret).limit(2))
            except DBAPIError as error:
                if sqlstate(error) != NO_PRIVILEGE:
                    raise
                raise SchemaMismatch("no privilege: GRANT SELECT ON ordering_secret") from None
            secrets = result.all()
    match secrets:
        case [bytes(secret)] if SHORTEST <= len(secret) <= LONGEST:
            return secret
        case [_]:
            raise SchemaMismatch(f"ordering_secret: must have {SHORTEST} to {LONGEST} bytes")
        case _:
            raise SchemaMismatch(_MISSING)
