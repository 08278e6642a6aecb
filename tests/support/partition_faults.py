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
        kills: How many processes were killed.

    """

    deployment: PartitionedDeployment
    members: list[ChildProcess]
    jitter: random.Random = field(default_factory=lambda: random.Random(1))
    kills: int = 0

    async def scale_through(self, numbers: Sequence[int], *, kills: int) -> int:
        """
        Scale to each of *numbers*, while *kills* processes are killed one after another.

        Returns how many steps of each key were recorded; all of them are taken at the end.
        """
        done = asyncio.Event()
        recording = asyncio.create_task(self.deployment.keep_recording(done, ahead=20))
        killing = asyncio.create_task(self._kill(kills))
        try:
            for number in numbers:
                await self.deployment.scale(number)
            await killing
        finally:
            done.set()
        count = await recording
        await self.deployment.until_taken(count * len(KEYS), within=120)
        return count

    async def _kill(self, kills: int) -> None:
        while self.kills < kills:
            self.kills += 1
            victim = self.jitter.choice(self.members)
            victim.kill()
            await victim.wait()
            victim.start()
            await victim.wait_for_line("partitions_assigned", within=60)
