"""
The audit log: who did what to dead letters, and why.
"""

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from outbox.database_time import now_plus
from outbox.dead_letters.selection import Selection
from outbox.tables import audit_log


class Action(StrEnum):
    """Actions on dead letters, as stored in `audit_log`."""

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
    ADOPT = "adopt"
    """Another exchange or queue was recorded in `outbox_targets`; no message was changed."""
    ERASE = "erase"
    """The keys of subjects were destroyed, so that their bodies can be read no more."""
    READMIT = "readmit"
    """A subject that was erased may have events again, with a new key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One run of a command: its actor, reason and selection."""

    actor: str
    because: str
    source: str
    selection: Selection
    run: UUID = field(default_factory=uuid4)

    async def record(
        self,
        connection: AsyncConnection,
        action: Action,
        messages: int,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Record *action* and the number of *messages*, in the open transaction.

        *details* are a JSON object without health data.
        """
        await connection.execute(
            sa.insert(audit_log).values(
                run=self.run,
                actor=self.actor,
                action=action.value,
                source=self.source,
                because=self.because,
                selection=self.selection.to_json(),
                messages=messages,
                details=dict(details or {}),
            )
        )


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
