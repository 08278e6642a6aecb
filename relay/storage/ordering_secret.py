"""
The secret of a database, with which its relays digest ordering keys.
"""

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import DEFERRED
from outbox.database.errors import is_transient, translated
from outbox.errors import SchemaMismatch
from outbox.tables import ordering_salt

# The first is as much as nobody tries out, the second all that BLAKE2b takes.
SHORTEST, LONGEST = 16, 64

_MISSING = (
    "ordering_salt: there must be one row; put it back from a backup, or see docs/ordering.md"
    " for a new one"
)


async def read(engine: AsyncEngine) -> bytes:
    """
    The salt in the database of *engine*.

    Raises SchemaMismatch if there is not one row with 16 to 64 bytes, or if it may not be read,
    and DatabaseUnavailable.
    """
    with translated():
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            try:
                # Two relays could take different ones of two.
                found = await connection.scalars(sa.select(ordering_salt.c.salt).limit(2))
            except DBAPIError as error:
                if is_transient(error):
                    raise
                raise SchemaMismatch("no privilege: GRANT SELECT ON ordering_salt") from None
            salts = found.all()
    match salts:
        case [bytes(salt)] if SHORTEST <= len(salt) <= LONGEST:
            return salt
        case [_]:
            raise SchemaMismatch(f"ordering_salt: must have {SHORTEST} to {LONGEST} bytes")
        case _:
            raise SchemaMismatch(_MISSING)
