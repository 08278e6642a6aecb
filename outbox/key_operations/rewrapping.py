"""
Statements that replace the wrapped key of a row, and leave its ciphertext where it is.

A batch is read without a lock, since a source of keys may be slow. Then the transaction that
changes it locks those rows that still need it, and skips rows that another one has locked: a relay
that publishes a row deletes it, and a consumer decides on a parked one. Nothing waits for a lock.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.encryption.body_format import FIXED_BYTES
from outbox.key_operations.key_usage import HEAD_BYTES, KEY_PART_AT, BodyTable
from outbox.payload import MAX_BODY_BYTES

_NO_KEY_ID = b"\0"


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    The rows that need another wrapped key.

    Args:
        current: The key that they get.
        only: Only rows of this key; None for all keys but the current one.

    """

    current: str
    only: str | None

    def of(self, each: BodyTable) -> sa.ColumnElement[bool]:
        """Return the condition for the rows of a table; keys of subjects have no such rows."""
        wrapped = each.is_encrypted & (sa.func.length(each.body) > FIXED_BYTES)
        if self.only is not None:
            wrapped &= _begins_with(each, self.only)
        return (
            wrapped
            & each.has_body
            & (each.key_part(1) != _NO_KEY_ID)
            & ~_begins_with(each, self.current)
        )


@dataclass(frozen=True, slots=True)
class Head:
    """The first bytes of the body of the row *id*, which has *size* bytes."""

    id: int
    start: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """The key part of a body before and after; see `outbox.encryption.body_format`."""

    old: bytes
    new: bytes

    def fits(self, size: int) -> bool:
        """Whether a body of *size* bytes is not too large for the table afterwards."""
        return size - len(self.old) + len(self.new) <= MAX_BODY_BYTES


async def count(connection: AsyncConnection, each: BodyTable, wanted: Wanted) -> int:
    """Count the rows that need another wrapped key."""
    statement = sa.select(sa.func.count()).select_from(each.table).where(wanted.of(each))
    return await connection.scalar(statement) or 0


async def read(
    connection: AsyncConnection, each: BodyTable, wanted: Wanted, *, after: int, limit: int
) -> list[Head]:
    """Return at most *limit* rows with ids above *after*, in their order."""
    start = sa.func.substr(each.body, 1, HEAD_BYTES, type_=sa.LargeBinary)
    identity = each.table.c.id
    page = (
        sa.select(identity, start, sa.func.length(each.body))
        .where(wanted.of(each), identity > after)
        .order_by(identity)
        .limit(limit)
    )
    return [Head(*row) for row in await connection.execute(page)]


async def lock(
    connection: AsyncConnection, each: BodyTable, wanted: Wanted, ids: Sequence[int]
) -> list[int]:
    """Lock those of *ids* that still need another wrapped key, and that no other has locked."""
    statement = (
        sa.select(each.table.c.id)
        .where(each.table.c.id.in_(ids), wanted.of(each))
        .order_by(each.table.c.id)
        .with_for_update(skip_locked=True)
    )
    return list(await connection.scalars(statement))


async def replace(
    connection: AsyncConnection, each: BodyTable, parts: Mapping[int, Rewrapped]
) -> None:
    """Replace the key parts of locked rows, given by their ids."""
    # A process encrypts many events with one data key.
    rows: dict[Rewrapped, list[int]] = {}
    for id_, part in parts.items():
        rows.setdefault(part, []).append(id_)
    is_sqlite = connection.dialect.name == "sqlite"
    await connection.execute(
        _replacement(each, is_sqlite=is_sqlite),
        [
            {"rows": json.dumps(ids) if is_sqlite else ids, "old": part.old, "new": part.new}
            for part, ids in rows.items()
        ],
    )


def _replacement(each: BodyTable, *, is_sqlite: bool) -> sa.Update:
    old, new = sa.bindparam("old", type_=sa.LargeBinary), sa.bindparam("new", type_=sa.LargeBinary)
    fixed = sa.func.substr(each.body, 1, FIXED_BYTES, type_=sa.LargeBinary)
    rest_at = KEY_PART_AT + sa.func.length(old)
    rest = sa.func.substr(each.body, rest_at, type_=sa.LargeBinary)
    # A repaired body has another key part.
    is_old = each.key_part(sa.func.length(old)) == old
    # On SQLite the operator gives text, whatever its bytes are.
    body = sa.cast(fixed.op("||")(new).op("||")(rest), sa.LargeBinary)
    return (
        sa.update(each.table)
        .where(_is_one(each.table.c.id, is_sqlite=is_sqlite), each.is_encrypted, is_old)
        .values(body=body)
    )


def _is_one(column: sa.Column[Any], *, is_sqlite: bool) -> sa.ColumnElement[bool]:
    """Whether *column* is one of the ids in the parameter `rows`."""
    if is_sqlite:
        given = sa.func.json_each(sa.bindparam("rows", type_=sa.Text)).table_valued("value")
        return column.in_(sa.select(given.c.value))
    return column == sa.any_(sa.bindparam("rows", type_=ARRAY(sa.BigInteger)))


def _begins_with(each: BodyTable, key_id: str) -> sa.ColumnElement[bool]:
    name = key_id.encode()
    part = bytes((len(name),)) + name
    return each.key_part(len(part)) == sa.literal(part, sa.LargeBinary)
