"""
The audit log: who did what to dead letters, and why.
"""

import getpass
import os
import socket
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

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
    SHOW_BODY = "show_body"
    EXPORT_BODIES = "export_bodies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One run of a command: its actor, reason and selection."""

    actor: str
    because: str
    source: str
    selection: Selection
    run: UUID = field(default_factory=uuid4)

    async def record(self, connection: AsyncConnection, action: Action, messages: int) -> None:
        """Record *action* and the number of *messages*, in the open transaction."""
        await connection.execute(
            sa.insert(audit_log).values(
                run=self.run,
                actor=self.actor,
                action=action.value,
                source=self.source,
                because=self.because,
                selection=self.selection.to_json(),
                messages=messages,
            )
        )


async def is_known(session: AsyncSession, run: UUID) -> bool:
    """Return whether *run* is in the audit log; the run of a forged header is not."""
    found = await session.execute(sa.select(audit_log.c.id).where(audit_log.c.run == run).limit(1))
    return found.first() is not None


def user_and_host() -> str:
    """Return the user of the process and the name of the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a user id that has no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
