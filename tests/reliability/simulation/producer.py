"""
A producer: its transaction commits, rolls back, or ends with an unknown outcome.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from outbox import Event, Priority, add
from outbox.runtime import process
from outbox.settings import SharedSettings
from tests.reliability.history import COMMITTED, ROLLED_BACK, UNKNOWN
from tests.reliability.simulation.fault_points import FaultAction, PlannedFault


@dataclass(frozen=True, slots=True)
class Draft:
    """
    An event of the type *kind*, to be recorded with the ordering *key*, or without one.

    Args:
        waits: Seconds until it may be published; None means at once.
        priority: Counts only in queues with priorities.

    """

    id: UUID
    kind: str
    key: str | None = None
    waits: float | None = None
    priority: Priority = Priority.NORMAL


class Ending(Enum):
    """How a transaction ends: which fault is injected at its COMMIT, and where."""

    COMMIT = "commit"
    ROLLBACK = "rollback"
    CUT_BEFORE = "cut before"
    CUT_AFTER = "cut after"
    KILL_BEFORE = "kill before"
    KILL_AFTER = "kill after"

    @property
    def fault(self) -> PlannedFault | None:
        """The fault to be injected for this ending."""
        action, _, moment = self.value.partition(" ")
        if not moment:
            return None
        point = {"before": "sent", "after": "answered"}[moment]
        return PlannedFault(f"producer.commit_add.{point}", FaultAction(action))


async def record(settings: SharedSettings, drafts: Sequence[Draft], ending: Ending) -> str:
    """Record *drafts*; returns the outcome as far as the producer knows it."""
    async with (
        process.database(settings, role="producer") as engine,
        AsyncSession(engine) as session,
    ):
        try:
            add(session, *(_event(draft) for draft in drafts))
            await session.flush()
        except SQLAlchemyError:
            return ROLLED_BACK
        if ending is Ending.ROLLBACK:
            await session.rollback()
            return ROLLED_BACK
        try:
            await session.commit()
        except SQLAlchemyError:
            return UNKNOWN
    return COMMITTED


def _event(draft: Draft) -> Event:
    later = None if draft.waits is None else datetime.now(UTC) + timedelta(seconds=draft.waits)
    return Event(
        draft.kind,
        {},
        id=draft.id,
        ordering_key=draft.key,
        not_before=later,
        priority=draft.priority,
    )
