"""
The command `consumer run --processes` as a process of a test.
"""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support import probes
from tests.support.consumer_deployment import ConsumerDeployment, a_message
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

CONSUMER = [sys.executable, "-m", "consumer"]


def lines(supervisor: ChildProcess, event: str) -> list[dict[str, Any]]:
    """The log lines of this *event*."""
    found = [line for line in supervisor.output.splitlines() if f'"{event}"' in line]
    return [json.loads(line) for line in found]


def pids(supervisor: ChildProcess) -> list[int]:
    """The ids of all processes that it has started."""
    return [line["pid"] for line in lines(supervisor, "process_started")]


async def is_ready(supervisor: ChildProcess) -> bool:
    [listening, *_] = lines(supervisor, "probes_listening")
    return bool(await probes.get(listening["port"], "/readyz"))


@asynccontextmanager
async def supervised(
    deployment: Deployment, *options: str, module: str = "slow", within: float = 30.0
) -> AsyncIterator[ChildProcess]:
    """A supervisor of the consumer in *module*, once its processes are ready."""
    target = f"tests.support.{module}:consumer"
    supervisor = ChildProcess(
        [*CONSUMER, "run", target, *options],
        log=deployment.directory / "supervisor.log",
        env=deployment.settings,
    )
    async with supervisor:
        await supervisor.wait_for_line("supervisor_started", within=within)
        await eventually(lambda: is_ready(supervisor), within=within)
        yield supervisor


@asynccontextmanager
async def at_work(
    urls: tuple[str, str], directory: Path
) -> AsyncIterator[tuple[ConsumerDeployment, ChildProcess]]:
    """A supervisor of two processes, one of which calls a handler that waits for its outage."""
    async with (
        ConsumerDeployment(urls, directory, app="slow") as deployment,
        supervised(deployment, "--processes", "2") as supervisor,
    ):
        deployment.outage.touch()
        await deployment.publish(a_message("test.slow"))
        await eventually(deployment.calls)
        yield deployment, supervisor
