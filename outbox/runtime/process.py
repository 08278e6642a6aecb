"""
Parts of both processes: name, database, topology, and a log of servers that are unavailable.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import create_engine
from outbox.errors import Unavailable
from outbox.runtime import logs
from outbox.settings import SharedSettings
from outbox.transports.base import Transport
from outbox.transports.topology import Topology


def name(role: str) -> str:
    """Return the name that databases and brokers show for this process."""
    return f"{role} {socket.gethostname()}:{os.getpid()}"


@asynccontextmanager
async def database(
    settings: SharedSettings, *, role: str, lock_timeout: timedelta | None = None
) -> AsyncIterator[AsyncEngine]:
    """Yield the engine of the configured database."""
    engine = create_engine(
        settings.database,
        pool_size=settings.database_pool_size,
        application_name=name(role),
        lock_timeout=lock_timeout,
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


class Availability:
    """
    Logs each reason for which a server is unavailable once, and once that all are available.

    *connections* is the gauge that the transports of the process count in.
    """

    def __init__(self, log: Any, registry: CollectorRegistry) -> None:
        self._log = log
        self._logged: set[str] = set()
        self.connections = Gauge(
            "mq_active_connections", "Open connections to the broker.", registry=registry
        )

    def down(self, error: Unavailable, *, pause: timedelta) -> None:
        """A server could not be reached; the next attempt is after *pause*."""
        # Two servers that are unavailable may give their reasons in turn.
        if (problem := str(error)) not in self._logged:
            self._log.warning("server_unavailable", problem=problem)
        self._logged.add(problem)
        self._log.debug("reconnecting", pause_seconds=pause.total_seconds())

    def up(self) -> None:
        """All servers can be reached."""
        if self._logged:
            self._log.info("server_available")
        self._logged.clear()
