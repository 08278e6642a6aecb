"""
Kills processes of a run and starts them again: each consumer once and the relay twice.

The relay is killed after it has published a batch and before it has deleted the rows, as far as
the demo meets that moment: then the broker gets the batch twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from outbox_demo.processes import Child

MOMENT_SECONDS = 2.0
"""How long to wait for the moment between publish and delete."""


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of events *published* and *applied*, from 0 to 1."""

    published: float
    applied: float


@dataclass(frozen=True, slots=True)
class PlannedKill:
    """*child* is killed once the run has reached *shares*."""

    child: Child
    shares: Shares

    def is_due(self, now: Shares) -> bool:
        """Whether the run has reached the shares."""
        return now.published >= self.shares.published and now.applied >= self.shares.applied


class FaultInjector:
    """
    Kills *relay* and *consumers*, and starts them again.

    Args:
        has_unsettled: Whether the relay has published rows that it has not yet deleted; None if
            it never will again.

    """

    def __init__(
        self,
        relay: Child,
        consumers: Sequence[Child],
        has_unsettled: Callable[[], Awaitable[bool | None]],
    ) -> None:
        self._relay = relay
        self._has_unsettled = has_unsettled
        self.pending = [
            PlannedKill(relay, Shares(published=1 / 3, applied=0)),
            PlannedKill(consumers[0], Shares(published=0, applied=1 / 3)),
            PlannedKill(relay, Shares(published=2 / 3, applied=0)),
            PlannedKill(consumers[1], Shares(published=0, applied=2 / 3)),
        ]
        self.killed = 0
        self.duplicates = 0

    async def kill_due(self, now: Shares) -> list[str]:
        """Kill each process that is due; returns one line of text for each."""
        due = [kill for kill in self.pending if kill.is_due(now)]
        for kill in due:
            self.pending.remove(kill)
        return [await self._kill(kill.child) for kill in due]

    async def count_duplicates(self, child: Child) -> None:
        """Add the duplicates that *child* has skipped; its metric is lost when it ends."""
        self.duplicates += await child.metric("mq_duplicate_messages_total")

    async def _kill(self, child: Child) -> str:
        moment = ""
        if child is self._relay and await self._met_unsettled():
            moment = " after it had published a batch, before it had deleted the rows"
        await self.count_duplicates(child)
        await child.kill()
        await child.start()
        self.killed += 1
        return f"killed {child.name}{moment}, and started it again"

    async def _met_unsettled(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(MOMENT_SECONDS):
                while (now := await self._has_unsettled()) is False:  # noqa: ASYNC110 - seen from outside
                    await asyncio.sleep(0)
                return now is True
        return False
