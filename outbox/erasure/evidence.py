"""
The events `subject.erased`, and the evidence of an erasure in the audit log.

The evidence has the ids of the destroyed keys, which say nothing about a person without the key
database, and no name.
"""

import json
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.audit.log import Action, Audit, Filters
from outbox.audit_tables import audit_log
from outbox.database.privileges import Rights
from outbox.encryption.encryptor import Encryptor
from outbox.event import Event
from outbox.tables import outbox
from outbox.wire.row_codec import to_row

TYPE = "subject.erased"
"""The type and the routing key of the event; its payload is `{"subject": "…"}`."""
RIGHTS: Rights = {outbox: ("INSERT",), audit_log: ("SELECT", "INSERT")}
_AT_ONCE = 1_000
_PAGE = 100


def event(key: UUID, subject: str) -> Event:
    """Return the event that says that the *key* of *subject* is destroyed; always the same one."""
    return Event(TYPE, {"subject": subject}, idempotency_key=f"{TYPE}:{key}")


async def record_events(
    connection: AsyncConnection, subjects: Mapping[UUID, str], encryptor: Encryptor
) -> None:
    """Record an event, encrypted with a data key, for each destroyed key and its subject."""
    items = sorted(subjects.items())
    for some in _parts(items):
        rows = [
            encryptor.encrypted(to_row(event(key, subject)), compression="none")
            for key, subject in some
        ]
        # Inline: without a RETURNING, which would need a right to read.
        await connection.execute(sa.insert(outbox).inline(), rows)


async def record(
    connection: AsyncConnection,
    audit: Audit[Filters],
    action: Action,
    keys: Collection[UUID],
    details: Mapping[str, Any],
) -> None:
    """Record *action* with the ids of the *keys*; *details* stand in the first row."""
    for number, some in enumerate(_parts(sorted(keys))):
        stated = {"keys": [str(key) for key in some], **(details if number == 0 else {})}
        await audit.record(connection, action, len(some), stated)


async def announced(connection: AsyncConnection, runs: Collection[UUID]) -> set[UUID]:
    """Return the keys whose erasure is in the audit log as one of *runs*."""
    found: set[UUID] = set()
    for some in _parts(sorted(runs)):
        rows = await connection.scalars(
            sa.select(audit_log.c.details).where(
                audit_log.c.run.in_(some), audit_log.c.action == Action.ERASE
            )
        )
        for details in rows:
            found.update(_keys(details))
    return found


async def named(connection: AsyncConnection, action: Action) -> AsyncIterator[list[UUID]]:
    """Yield the keys of all rows of *action* in the audit log, some at a time."""
    last = 0
    column = audit_log.c
    while True:
        rows = (
            await connection.execute(
                sa.select(column.id, column.details)
                .where(column.id > last, column.action == action)
                .order_by(column.id)
                .limit(_PAGE)
            )
        ).all()
        if not rows:
            return
        last = rows[-1].id
        for row in rows:
            yield list(_keys(row.details))


def _keys(details: Any) -> Iterator[UUID]:
    """The ids in a row, which any operator may have inserted."""
    stated = json.loads(details) if isinstance(details, str) else details
    keys = stated.get("keys") if isinstance(stated, dict) else None
    for text in keys if isinstance(keys, list) else ():
        try:
            yield UUID(text)
        except (ValueError, AttributeError, TypeError):
            continue


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(items)
    return (listed[at : at + _AT_ONCE] for at in range(0, len(listed), _AT_ONCE))
