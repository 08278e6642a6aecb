"""
Who kills: each process at a third and at two thirds of its work, the relay when it hurts most.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from outbox_demo.processes import Child

CHANCE_SECONDS = 2.0
"""How long to wait for the moment that hurts most."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How much is *published* and *applied*, from 0 to 1."""

    published: float
    applied: float


@dataclass(frozen=True, slots=True)
class Plan:
    """*victim* dies once there are *shares*."""

    victim: Child
    shares: Shares

    def due(self, now: Shares) -> bool:
        """Whether it has come to that."""
        return now.published >= self.shares.published and now.applied >= self.shares.applied


class Villain:
    """
    Kills *relay* and *workers*, and has them started again.

    Args:
        worst_moment: Whether the relay has published what it has not yet removed; None if it
            never will again.

    """

    def __init__(
        self,
        relay: Child,
        workers: Sequence[Child],
        worst_moment: Callable[[], Awaitable[bool | None]],
    ) -> None:
        self._relay = relay
        self._worst_moment = worst_moment
        self.plans = [
            Plan(relay, Shares(published=1 / 3, applied=0)),
            Plan(workers[0], Shares(published=0, applied=1 / 3)),
            Plan(relay, Shares(published=2 / 3, applied=0)),
            Plan(workers[1], Shares(published=0, applied=2 / 3)),
        ]
        self.killed = 0
        self.duplicates = 0

    async def strike(self, now: Shares) -> list[str]:
        """Kill whose time has come; returns what was done."""
        due = [plan for plan in self.plans if plan.due(now)]
        for plan in due:
            self.plans.remove(plan)
        return [await self._kill(plan.victim) for plan in due]

    async def count_duplicates(self, child: Child) -> None:
        """Add those that *child* has dropped; its own count ends with it."""
        self.duplicates += await child.metric("mq_duplicate_messages_total")

    async def _kill(self, victim: Child) -> str:
        how = "without a warning"
        if victim is self._relay and await self._has_chance():
            how = "after it had published, before it could say so"
        await self.count_duplicates(victim)
        await victim.kill()
        await victim.start()
        self.killed += 1
        return f"killed {victim.name} {how}, and started it again"

    async def _has_chance(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(CHANCE_SECONDS):
                while (now := await self._worst_moment()) is False:  # noqa: ASYNC110 - seen from outside
                    await asyncio.sleep(0)
                return now is True
        return False
