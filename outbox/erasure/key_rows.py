"""
The statements on the states of subject keys, in the key database.

Each changes only rows in the state before, so that it may be repeated.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database_time import database_now, now_plus
from outbox.encryption.encryptor import SUBJECT_SECONDS
from outbox.encryption.key_tables import (
    ACTIVE,
    ERASED,
    ERASING,
    digest_fingerprint,
    subject_keys,
)

AT_ONCE = 1_000
"""The rows of one statement."""

State: TypeAlias = Literal["active", "erasing", "erased"]
_column = subject_keys.c


@dataclass(frozen=True, slots=True)
class KeyRow:
    """
    A subject key without the key.

    Args:
        run: The erasure whose evidence names it, or will name it.
        is_recent: Whether it was destroyed so lately that producers may still remember it.

    """

    id: UUID
    digest: bytes | None
    state: State
    is_announced: bool
    run: UUID | None
    is_recent: bool


async def fingerprint(connection: AsyncConnection) -> bytes | None:
    """Return the fingerprint of the digest key of all subjects; None without a subject."""
    found = await connection.scalar(sa.select(digest_fingerprint.c.fingerprint))
    return None if found is None else bytes(found)


async def of_digests(connection: AsyncConnection, digests: Collection[bytes]) -> list[KeyRow]:
    """Return the rows of the subjects with these *digests*."""
    return await _read(connection, _column.digest, digests)


async def of_ids(connection: AsyncConnection, ids: Collection[UUID]) -> list[KeyRow]:
    """Return the rows with these *ids*."""
    return await _read(connection, _column.id, ids)


async def mark_erasing(connection: AsyncConnection, ids: Collection[UUID], run: UUID) -> int:
    """Refuse these keys from the commit on; returns the number of keys."""
    return await _change(connection, ids, _column.state == ACTIVE, state=ERASING, run=run)


async def destroy(connection: AsyncConnection, ids: Collection[UUID]) -> int:
    """Destroy these keys, which must be refused already; returns the number of keys."""
    return await _change(
        connection,
        ids,
        _column.state == ERASING,
        state=ERASED,
        wrapped=None,
        erased_at=database_now(),
    )


async def adopt(connection: AsyncConnection, ids: Collection[UUID], run: UUID) -> int:
    """Say that *run* records the evidence of these destroyed keys; returns their number."""
    return await _change(connection, ids, _column.state == ERASED, run=run)


async def mark_announced(connection: AsyncConnection, ids: Collection[UUID]) -> int:
    """Say that events and evidence of these keys are recorded; returns the number of keys."""
    where = (_column.state == ERASED) & _column.announced_at.is_(None)
    return await _change(connection, ids, where, announced_at=database_now())


async def detach(connection: AsyncConnection, ids: Collection[UUID]) -> int:
    """Let the subjects of these destroyed keys get new ones; returns the number of keys."""
    where = (_column.state == ERASED) & _column.announced_at.is_not(None)
    return await _change(connection, ids, where, digest=None)


async def unfinished(connection: AsyncConnection) -> int:
    """Return the number of keys whose erasure has begun and is not announced."""
    where = (_column.state != ACTIVE) & _column.announced_at.is_(None)
    return await connection.scalar(sa.select(sa.func.count()).where(where)) or 0


async def _read(
    connection: AsyncConnection, column: sa.Column[Any], values: Collection[Any]
) -> list[KeyRow]:
    found: list[KeyRow] = []
    for some in _batches(values):
        rows = await connection.execute(
            sa.select(
                _column.id,
                _column.digest,
                _column.state,
                _column.announced_at.is_not(None),
                _column.run,
                _column.erased_at > now_plus(-SUBJECT_SECONDS),
            ).where(column.in_(some))
        )
        for id_, digest, state, is_announced, run, is_recent in rows:
            name = None if digest is None else bytes(digest)
            found.append(KeyRow(id_, name, state, bool(is_announced), run, bool(is_recent)))
    return found


async def _change(
    connection: AsyncConnection,
    ids: Collection[UUID],
    where: sa.ColumnElement[bool],
    **values: Any,
) -> int:
    changed = 0
    for some in _batches(ids):
        found = await connection.execute(
            sa.update(subject_keys).where(_column.id.in_(some), where).values(values)
        )
        changed += found.rowcount
    return changed


def _batches(values: Collection[Any]) -> Iterator[list[Any]]:
    ordered = sorted(values)  # two commands lock rows in one order
    return (ordered[at : at + AT_ONCE] for at in range(0, len(ordered), AT_ONCE))
