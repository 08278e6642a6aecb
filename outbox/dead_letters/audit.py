"""
What is written down of who did what to dead letters.
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
    """What was done to dead letters."""

    REPLAY_STARTED = "replay_started"
    """Written before anything is published: consumers look a run up by its id."""
    REPLAY = "replay"
    REPAIR = "repair"
    RERUN = "rerun"
    """The record that a message is completed was deleted, so that it takes effect again."""
    DROP = "drop"
    SHOW_BODY = "show_body"
    EXPORT_BODIES = "export_bodies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One run: who did it, why, and to what."""

    actor: str
    because: str
    source: str
    selection: Selection
    run: UUID = field(default_factory=uuid4)

    async def record(self, connection: AsyncConnection, action: Action, messages: int) -> None:
        """Add that *action* was done to so many *messages*, in the open transaction."""
        await connection.execute(
            sa.insert(audit_log).values(
                run=self.run,
                actor=self.actor,
                action=action.value,
                source=self.source,
                because=self.because,
                selection=self.selection.described(),
                messages=messages,
            )
        )


async def is_known(session: AsyncSession, run: UUID) -> bool:
    """Whether *run* was written down: a mark that somebody has forged was not."""
    found = await session.execute(sa.select(audit_log.c.id).where(audit_log.c.run == run).limit(1))
    return found.first() is not None


def user_and_host() -> str:
    """The operating system's name for who runs this, and where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
