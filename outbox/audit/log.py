"""
The audit log: who did what, and why. Each row has its hash in the chain of all rows.

On Postgres the trigger `audit_log_chain` assigns id, time, role and hash, under the lock of
`audit_head`: rows of psql, and of programs of revision 0011, are in the chain, and the order of
ids is the order of the chain. On SQLite `Audit.record` does it, in its transaction that writes.

A command records an act late in its transaction, since others wait for the head until it commits.
"""

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from outbox.audit.chain import FIELDS, START, canonical_json, hash_of
from outbox.audit_tables import audit_head, audit_log
from outbox.database_time import database_now, now_plus


class Action(StrEnum):
    """Acts of people and processes, as stored in `audit_log`."""

    REPLAY_STARTED = "replay_started"
    """Recorded before the first publish: consumers look up a run by its id."""
    REPLAY = "replay"
    REPAIR = "repair"
    RERUN = "rerun"
    """The record that a message is completed was deleted, so that it is processed again."""
    DROP = "drop"
    PURGE = "purge"
    """A running process deleted what is older than MQ_DEAD_LETTER_RETENTION_DAYS."""
    FIND_BY_KEY = "find_by_key"
    """Recorded before a command answers whether a key has dead letters, and how many."""
    SHOW_BODY = "show_body"
    EXPORT_BODIES = "export_bodies"
    WATCH_BODIES = "watch_bodies"
    """Copies of messages that passed an exchange were about to be shown with their bodies."""
    ADOPT = "adopt"
    """Another exchange or queue was recorded in `outbox_targets`; no message was changed."""
    ERASE = "erase"
    """The keys of subjects were destroyed, so that their bodies can be read no more."""
    KEYS_ROTATE = "keys_rotate"
    KEYS_REWRAP = "keys_rewrap"
    KEYS_RETIRE = "keys_retire"
    """A key was removed from its source: what it has encrypted can be read no more."""
    KEYS_REQUIRE = "keys_require"
    """From then on the table refuses bodies that are not encrypted."""
    KEYS_ALLOW_PLAINTEXT = "keys_allow_plaintext"
    READMIT = "readmit"
    """A subject that was erased may have events again, with a new key."""
    EXPIRE_BODIES = "expire_bodies"
    """A running process deleted the bodies of old messages, and kept their metadata."""
    REQUEST = "request"
    """A person asked for an act that needs a second person."""
    APPROVE = "approve"
    USE_APPROVAL = "use_approval"
    """Recorded before the act; an approval is used once."""
    PIN = "pin"
    """The head of the log was published, so that another system keeps it."""


class Filters(Protocol):
    """The messages that an act concerns."""

    def to_json(self) -> dict[str, Any]:
        """Return them as a JSON object without health data and keys."""


Selected_co = TypeVar("Selected_co", bound=Filters, covariant=True)


@dataclass(frozen=True, slots=True)
class StatedFilters:
    """Filters that are a JSON object already, without health data and keys."""

    filters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the object."""
        return dict(self.filters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(Generic[Selected_co]):
    """
    One run of a command: its actor, reason and selection.

    Args:
        approval: The number of the approval by a second person; None if none is needed.

    """

    actor: str
    because: str
    source: str
    selection: Selected_co
    run: UUID = field(default_factory=uuid4)
    approval: int | None = None

    async def record(
        self,
        connection: AsyncConnection,
        action: Action,
        messages: int,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Record *action* and the number of *messages*, in the open transaction.

        *details* are a JSON object without health data. The log is locked until the transaction
        ends. Raises ValueError for details that are no JSON.
        """
        stated = dict(details or {})
        if self.approval is not None:
            stated["approval"] = self.approval
        row = {
            "run": self.run,
            "actor": self.actor,
            "action": action.value,
            "source": self.source,
            "because": self.because,
            "messages": messages,
        }
        selection, stated_text = canonical_json(self.selection.to_json()), canonical_json(stated)
        if connection.dialect.name == "sqlite":
            await _chain(connection, row | {"selection": selection, "details": stated_text})
        else:
            as_stored = row | {"selection": self.selection.to_json(), "details": stated}
            await connection.execute(sa.insert(audit_log).values(as_stored))


async def is_known(session: AsyncSession, run: UUID, *, within: timedelta) -> bool:
    """
    Return whether *run* is in the audit log and began *within* this time.

    The run of a forged header is not there. A copy of an older run may have been handled so long
    ago that its dedup row is purged.
    """
    began = sa.select(sa.func.min(audit_log.c.at)).where(audit_log.c.run == run).scalar_subquery()
    return bool(await session.scalar(sa.select(began > now_plus(-within.total_seconds()))))


def user_and_host() -> str:
    """Return the user of the process and the name of the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a user id that has no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def own_user() -> str:
    """Return the user of the process as the operating system numbers it, for a SQLite file."""
    return f"uid {os.getuid()}"


# The counter is above ids whose rows are missing; a copy may lack the counter.
_NEXT_ID: sa.ColumnClause[int] = sa.literal_column(
    "(SELECT max(coalesce((SELECT max(id) FROM audit_log), 0),"
    " coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'audit_log'), 0)) + 1)"
)
_BEFORE = sa.select(
    sa.select(audit_head.c.hash).scalar_subquery().label("hash"),
    sa.type_coerce(database_now(), sa.Text).label("at"),
    _NEXT_ID.label("id"),
)


async def _chain(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Add *row*, whose JSON is text, and the new head; no other connection writes meanwhile."""
    before = (await connection.execute(_BEFORE)).one()
    stored = row | {
        "id": before.id,
        "at": before.at,
        "run": row["run"].hex,
        "role": own_user(),
        "previous_hash": START if before.hash is None else before.hash,
    }
    stored["hash"] = hash_of(stored["previous_hash"], [str(stored[name]) for name in FIELDS])
    texts = {name: sa.literal(stored[name], sa.Text) for name in _TEXTS}
    await connection.execute(sa.insert(audit_log).values(stored | texts))
    added = sqlite.insert(audit_head).values(id=1, rows=1, hash=stored["hash"])
    await connection.execute(
        added.on_conflict_do_update(
            index_elements=[audit_head.c.id],
            set_={"rows": audit_head.c.rows + 1, "hash": stored["hash"]},
        )
    )


_TEXTS = ("at", "run", "selection", "details")
"""Columns that are stored as the text that was hashed."""
