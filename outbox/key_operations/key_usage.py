"""
Every statement that reads which key has encrypted a row.

The bytes that name the key stand at the begin of a body, see `outbox.encryption.body_format`, so
no statement reads a whole body, or needs a key.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.consumer_tables import parked_messages
from outbox.encryption.body_format import FIXED_BYTES, MAX_KEY_ID_BYTES, MAX_WRAPPED_BYTES
from outbox.tables import dead_letters, outbox
from outbox.wire.encrypted import ENCODING

KEY_PART_AT = FIXED_BYTES + 1
"""The position in SQL, from 1 on, of the length of the key id."""
HEAD_BYTES = FIXED_BYTES + 1 + MAX_KEY_ID_BYTES + 2 + MAX_WRAPPED_BYTES + 64
"""A body may be longer; its first bytes name the key, and hold the wrapped key."""


@dataclass(frozen=True, slots=True)
class BodyTable:
    """A *table* with bodies, and the column that says since *when* a row is there."""

    table: sa.Table
    when: sa.Column[Any]

    @property
    def name(self) -> str:
        """The name of the table."""
        return self.table.name

    @property
    def body(self) -> sa.ColumnElement[bytes]:
        """The body as bytes; SQLite stores text in this column too."""
        return sa.cast(self.table.c.body, sa.LargeBinary)

    @property
    def is_encrypted(self) -> sa.ColumnElement[bool]:
        """Whether the body of a row is encrypted; false if there is no content encoding."""
        return sa.func.coalesce(self.table.c.content_encoding == ENCODING, sa.false())

    @property
    def has_body(self) -> sa.ColumnElement[bool]:
        """Whether the body was not deleted after MQ_DEAD_LETTER_BODY_RETENTION_DAYS."""
        if "body_expired_at" in self.table.c:
            return self.table.c.body_expired_at.is_(None)
        return sa.true()

    def key_part(self, length: int | sa.ColumnElement[int]) -> sa.ColumnElement[bytes]:
        """The first *length* bytes of the key part: the length of the key id, and the id."""
        return sa.func.substr(self.body, KEY_PART_AT, length, type_=sa.LargeBinary)


TABLES = (
    BodyTable(outbox, outbox.c.created_at),
    BodyTable(dead_letters, dead_letters.c.first_at),
    BodyTable(parked_messages, parked_messages.c.parked_at),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """
    The rows of one table that one key has encrypted.

    Args:
        is_encrypted: False for plain rows.
        key_id: The key-encryption key; empty for keys of subjects, None for plain rows, and for
            encrypted ones that are too short to be read.
        oldest_at: Since when the oldest of them is there.
        sample: The id of one of them.

    """

    table: str
    is_encrypted: bool
    key_id: str | None
    rows: int
    oldest_at: datetime
    sample: int


async def by_key(connection: AsyncConnection) -> list[KeyUse]:
    """Count the rows of each table by the key that has encrypted them; it reads all rows."""
    return [use for each in TABLES for use in await _of_table(connection, each)]


async def head(connection: AsyncConnection, use: KeyUse) -> bytes:
    """Return the first bytes of the sample of *use*; empty if it was deleted meanwhile."""
    table = next(each for each in TABLES if each.name == use.table)
    statement = sa.select(sa.func.substr(table.body, 1, HEAD_BYTES, type_=sa.LargeBinary))
    return await connection.scalar(statement.where(table.table.c.id == use.sample)) or b""


async def _of_table(connection: AsyncConnection, each: BodyTable) -> list[KeyUse]:
    key_id = sa.case(
        (
            each.is_encrypted & (sa.func.length(each.body) > FIXED_BYTES),
            sa.func.substr(
                each.body,
                KEY_PART_AT + 1,
                _key_id_length(each, connection.dialect.name),
                type_=sa.LargeBinary,
            ),
        )
    ).label("key_id")
    rows = (
        sa.select(
            each.is_encrypted.label("is_encrypted"),
            key_id,
            each.when.label("since"),
            each.table.c.id,
        )
        .where(each.has_body)
        .subquery("by_key")
    )
    counted = await connection.execute(
        sa.select(
            rows.c.is_encrypted,
            rows.c.key_id,
            sa.func.count(),
            sa.func.min(rows.c.since),
            sa.func.min(rows.c.id),
        ).group_by(rows.c.is_encrypted, rows.c.key_id)
    )
    return [
        KeyUse(
            table=each.name,
            is_encrypted=is_encrypted,
            key_id=None if found is None else found.decode("ascii", "backslashreplace"),
            rows=number,
            oldest_at=oldest,
            sample=sample,
        )
        for is_encrypted, found, number, oldest, sample in counted
    ]


def _key_id_length(each: BodyTable, dialect: str) -> sa.ColumnElement[int]:
    """The number in the byte before the key id."""
    byte = each.key_part(1)
    if dialect == "postgresql":
        return sa.func.get_byte(byte, 0, type_=sa.Integer)
    # SQLite has no function for the number of a byte; its position among all bytes is one.
    every = sa.literal(bytes(range(256)), sa.LargeBinary)
    return sa.func.instr(every, byte, type_=sa.Integer) - 1
