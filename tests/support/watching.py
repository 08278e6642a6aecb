"""
Commands `consumer watch` beside a deployment, for tests.
"""

import json
import sys
from typing import Any

from outbox import insert
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.deployment import Deployment
from tests.support.processes import ChildProcess, PreparedProcess


class Watched:
    """A deployment, and observers of its broker."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._started = 0

    async def watching(self, *arguments: str) -> ChildProcess:
        """Start `consumer watch`, and return when it observes."""
        self._started += 1
        child = PreparedProcess(
            [sys.executable, "-m", "consumer", "watch", *arguments],
            log=self.deployment.directory / f"watch-{self._started}.log",
            env=self.deployment.settings,
        )
        child.start()
        await child.wait_for_line("watching")
        return child

    async def record(self, *types: str, **changes: Any) -> None:
        """Record an event of each type."""
        events = [an_event(type=each, payload={"note": LEAK_MARKER}, **changes) for each in types]
        async with self.deployment.engine.begin() as connection:
            await connection.execute(insert(*events))


def objects(child: ChildProcess) -> list[dict[str, Any]]:
    """The JSON objects that *child* has printed."""
    lines = [line for line in child.output.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]
