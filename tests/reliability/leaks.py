"""
Searches metrics and logs for health data at the end of a run.

`sampler.py` searches the tables, and `wire_recorder.py` the frames.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from tests.reliability.history import Leaked, Leftover, Record
from tests.reliability.leak_marker import is_leaked_in
from tests.reliability.supervisor import SupervisedProcess, Supervisor
from tests.support.environment import Environment
from tests.support.eventually import eventually
from tests.support.probes import get

TIMEOUT_SECONDS = 15.0

_LISTENS = '"event": "probes_listening"'


@dataclass(frozen=True, slots=True)
class LogsBefore:
    """The length of both servers' logs at the start of the run; earlier lines are not searched."""

    postgres: int
    rabbitmq: int


def logs_before(environment: Environment) -> LogsBefore:
    return LogsBefore(len(environment.postgres.log), len(environment.rabbitmq.log))


async def scan_metrics(supervisor: Supervisor, write: Callable[[Record], None]) -> None:
    """Search the metrics of the running processes; a process without metrics is a leftover."""
    for process in supervisor.processes:
        if process.pid is None:
            continue
        try:
            page = await eventually(partial(_metrics, process), within=TIMEOUT_SECONDS)
        except AssertionError:
            write(Leftover(time.time(), f"{process.name} without metrics", 1))
            continue
        if is_leaked_in(page):
            write(Leaked(time.time(), f"the metrics of {process.name}"))


def scan_logs(
    environment: Environment,
    supervisor: Supervisor,
    before: LogsBefore,
    write: Callable[[Record], None],
) -> None:
    """Search all logs to their ends."""
    pages = {
        "the log of Postgres": environment.postgres.log[before.postgres :],
        "the log of RabbitMQ": environment.rabbitmq.log[before.rabbitmq :],
    }
    for process in supervisor.processes:
        pages[f"the log of {process.name}"] = process.log.read_bytes()
    for where, page in pages.items():
        if is_leaked_in(page):
            write(Leaked(time.time(), where))


async def _metrics(process: SupervisedProcess) -> bytes:
    for port in _ports(process):
        with suppress(OSError):
            return await get(port, "/metrics")
    return b""


def _ports(process: SupervisedProcess) -> Iterator[int]:
    for line in process.output.splitlines():
        if _LISTENS in line:
            yield int(json.loads(line)["port"])
