"""
Processes of a consumer with partitions that are killed under load, while it is scaled.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.partitioned import KEYS, PartitionedDeployment
from tests.support.processes import ChildProcess


@dataclass
class Killing:
    """
    Load on *deployment*, whose *members* are killed and started again.

    Args:
        kills: How many processes are killed, while the number of partitions changes.

    """

    deployment: PartitionedDeployment
    members: list[ChildProcess]
    jitter: random.Random = field(default_factory=lambda: random.Random(1))
    kills: int = 0

    async def scale_through(self, numbers: Sequence[int], *, kills: int) -> int:
        """
        Scale to each of *numbers*, and kill a process now and then, *kills* in all at least.

        Returns how many steps of each key were recorded; all of them are taken at the end.
        """
        done = asyncio.Event()
        recording = asyncio.create_task(self.deployment.keep_recording(done, ahead=20))
        killing = asyncio.create_task(self._kill(done))
        try:
            for number in numbers:
                await self.deployment.scale(number)
            while self.kills < kills:
                await self._kill_one()
        finally:
            done.set()
            await killing
        count = await recording
        await self.deployment.until_taken(count * len(KEYS), within=120)
        return count

    async def _kill(self, done: asyncio.Event) -> None:
        while not done.is_set():
            await self._kill_one()

    async def _kill_one(self) -> None:
        victim = self.jitter.choice(self.members)
        if not victim.running:
            return
        self.kills += 1
        victim.kill()
        await victim.wait()
        victim.start()
        await victim.wait_for_line("partitions_assigned", within=60)
