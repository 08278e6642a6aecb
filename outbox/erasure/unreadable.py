"""
The rows of the outbox's database whose bodies are encrypted with given subject keys.
"""

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.consumer_tables import parked_messages
from outbox.database.privileges import Rights
from outbox.encryption.body_format import SUBJECT_AT, SUBJECT_BYTES
from outbox.tables import dead_letters, outbox
from outbox.wire.encrypted import ENCODING

TABLES = (outbox, dead_letters, parked_messages)
RIGHTS: Rights = dict.fromkeys(TABLES, ("SELECT",))
_AT_ONCE = 1_000


async def count(connection: AsyncConnection, keys: Collection[UUID]) -> dict[str, int]:
    """
    Return the number of rows by table whose bodies the subject *keys* have encrypted.

    It reads each body's first bytes, without an index: an erasure is rare.
    """
    ids = sorted(key.bytes for key in keys)
    found = {}
    for table in TABLES:
        subject = sa.func.substr(table.c.body, SUBJECT_AT + 1, SUBJECT_BYTES)
        found[table.name] = 0
        for at in range(0, len(ids), _AT_ONCE):
            found[table.name] += (
                await connection.scalar(
                    sa.select(sa.func.count()).where(
                        table.c.content_encoding == ENCODING,
                        sa.type_coerce(subject, sa.LargeBinary).in_(ids[at : at + _AT_ONCE]),
                    )
                )
                or 0
            )
    return found
