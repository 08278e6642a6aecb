"""
Parts of both processes: name, database, topology, and a log of servers that are unavailable.
"""

import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import create_engine
from outbox.errors import ConfigurationError, InvalidEvent, Unavailable
from outbox.runtime import logs
from outbox.runtime.in_memory import Gauge
from outbox.settings import SharedSettings
from outbox.transports.base import Transport
from outbox.transports.topology import Topology
from outbox.validation import allow_headers

REPEAT_SECONDS = 300.0
"""Seconds between the log lines about a server that stays unavailable."""


def name(role: str) -> str:
    """Return the name that databases and brokers show for this process."""
    return f"{role} {socket.gethostname()}:{os.getpid()}"


@asynccontextmanager
async def database(
    settings: SharedSettings, *, role: str, lock_timeout: timedelta | None = None
) -> AsyncIterator[AsyncEngine]:
    """
    Yield the engine of the configured database; only `relay migrate` creates a file for it.

    Raises SchemaMismatch if the file of SQLite is missing.
    """
    engine = create_engine(
        settings.database,
        pool_size=settings.database_pool_size,
        application_name=name(role),
        lock_timeout=lock_timeout,
        schema=settings.database_schema,
        create=False,
    )
    try:
        yield engine
    finally:
        await engine.dispose()


async def prepare(broker: Transport, topology: Topology, settings: SharedSettings) -> None:
    """
    Declare *topology*, or only check that it exists, as `MQ_DECLARE_TOPOLOGY` says.

    Raises TopologyMismatch and BrokerUnavailable.
    """
    if settings.declare_topology:
        await broker.declare(topology)
        return
    for entity in await broker.verify(topology):
        logs.get("topology").warning("arguments_not_compared", of=entity)


def allow_configured_headers(settings: SharedSettings) -> None:
    """Allow the headers in MQ_ALLOWED_HEADERS; raise ConfigurationError if a name is invalid."""
    try:
        allow_headers(*settings.allowed_headers)
    except InvalidEvent as error:
        raise ConfigurationError(f"MQ_ALLOWED_HEADERS: {error.problem}") from None


class Availability:
    """
    Logs each reason for which a server is unavailable once, and once that all are available.

    A process waits for any length of time, so a line at level error follows every
    `REPEAT_SECONDS`, and a gauge shows how long it has waited. Several parts of the process
    (*by*) may wait, each for its own reason.
    *connections* is the gauge that the transports of the process count in. *clock* returns seconds
    that never go back.
    """

    def __init__(
        self,
        log: Any,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._clock = clock
        self._logged: set[str] = set()
        self._since: dict[str, float] = {}
        self._repeated = 0.0
        self._failing: dict[str, str] = {}
        self.connections = Gauge(
            "mq_active_connections", "Open connections to the broker.", registry=registry
        )
        unavailable = Gauge(
            "mq_unavailable_seconds",
            "How long the process has waited for database, broker or keys; 0 while it works.",
            registry=registry,
        )
        unavailable.set_function(self._unavailable_seconds)

    def down(self, error: Unavailable, *, pause: timedelta, by: str = "work") -> None:
        """A server could not be reached; the next attempt is after *pause*."""
        now = self._clock()
        if not self._since:
            self._repeated = now
        self._since.setdefault(by, now)
        # Two servers that are unavailable may give their reasons in turn.
        if (problem := str(error)) not in self._logged:
            self._log.warning("server_unavailable", problem=problem)
        elif now - self._repeated >= REPEAT_SECONDS:
            self._repeated = now
            waited = round(self._unavailable_seconds())
            self._log.error("server_still_unavailable", problem=problem, seconds=waited)
        self._logged.add(problem)
        self._log.debug("reconnecting", pause_seconds=pause.total_seconds())

    def up(self, *, by: str = "work") -> None:
        """All servers that *by* needs can be reached."""
        self._since.pop(by, None)
        if self._since:
            return
        if self._logged:
            self._log.info("server_available")
        self._logged.clear()

    def background(self, work: str, error: Unavailable | None) -> None:
        """Periodic *work* beside the main loop failed with *error*, or succeeded."""
        if error is None:
            self._failing.pop(work, None)
        elif self._failing.get(work) != str(error):
            self._failing[work] = str(error)
            self._log.warning("background_work_failed", work=work, problem=str(error))

    def _unavailable_seconds(self) -> float:
        # The gauge is read in another thread, so the times are copied in one step.
        return max((self._clock() - since for since in tuple(self._since.values())), default=0.0)
