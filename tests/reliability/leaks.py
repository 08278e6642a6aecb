"""
Where health data might have shown up by the end of a run, besides its tables and the wire.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from tests.reliability.history import Leaked, Record, Residue
from tests.reliability.leak_marker import is_leaked_in
from tests.reliability.supervisor import Crew, Member
from tests.support.environment import Environment
from tests.support.eventually import eventually
from tests.support.probes import get

PATIENCE_SECONDS = 15.0

_LISTENS = '"event": "probes_listening"'


@dataclass(frozen=True, slots=True)
class LogsBefore:
    """How long the logs of both servers were when the run began; others may have written them."""

    postgres: int
    rabbitmq: int


def logs_before(site: Environment) -> LogsBefore:
    return LogsBefore(len(site.postgres.log), len(site.rabbitmq.log))


async def look_into_metrics(crew: Crew, write: Callable[[Record], None]) -> None:
    """Look through the metrics of the processes that run, each of which has to have some."""
    for member in crew.members:
        if member.pid is None:
            continue
        try:
            page = await eventually(partial(_metrics, member), within=PATIENCE_SECONDS)
        except AssertionError:
            write(Residue(time.time(), f"{member.name} without metrics", 1))
            continue
        if is_leaked_in(page):
            write(Leaked(time.time(), f"the metrics of {member.name}"))


def look_into_logs(
    site: Environment, crew: Crew, before: LogsBefore, write: Callable[[Record], None]
) -> None:
    """Look through all logs, to their ends."""
    pages = {
        "the log of Postgres": site.postgres.log[before.postgres :],
        "the log of RabbitMQ": site.rabbitmq.log[before.rabbitmq :],
    }
    for member in crew.members:
        pages[f"the log of {member.name}"] = member.log.read_bytes()
    for where, page in pages.items():
        if is_leaked_in(page):
            write(Leaked(time.time(), where))


async def _metrics(member: Member) -> bytes:
    for port in _ports(member):
        with suppress(OSError):
            return await get(port, "/metrics")
    return b""


def _ports(member: Member) -> Iterator[int]:
    for line in member.output.splitlines():
        if _LISTENS in line:
            yield int(json.loads(line)["port"])
