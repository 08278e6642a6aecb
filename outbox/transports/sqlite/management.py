"""
Questions to the embedded broker; see `outbox.transports.management`. It has no policies.
"""

import sqlite3
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TypeVar

from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import NoCounter
from outbox.transports.broker_figures import BrokerFigures
from outbox.transports.management import BrokerHealth, PolicyEffect, unwanted
from outbox.transports.routes import RouteState
from outbox.transports.sqlite import broker_figures, routing, schema
from outbox.transports.sqlite.connection import SqliteConnection
from outbox.transports.topology import Binding, ExchangeBinding, Topology

Result = TypeVar("Result")


class SqliteManagement:
    """The embedded broker in the file at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def policies(self, _topology: Topology) -> list[PolicyEffect]:
        return []

    async def unlike_limits(self, _topology: Topology) -> list[TopologyMismatch]:
        return []  # `verify` compares them

    async def missing_bindings(self, topology: Topology) -> list[Binding | ExchangeBinding]:
        there: set[Binding | ExchangeBinding] = {*await self._bindings()}
        if topology.exchange_bindings and self._path.exists():
            there |= await self._read(routing.exchange_bindings)
        return [binding for binding in topology.all_bindings if binding not in there]

    async def unwanted_bindings(self, topology: Topology) -> list[Binding]:
        names = {queue.name for queue in topology.queues}
        return unwanted(topology, [each for each in await self._bindings() if each.queue in names])

    async def queues(self, prefix: str) -> list[str]:
        if not self._path.exists():
            return []
        return await self._read(partial(schema.queues, prefix=prefix))

    async def is_bound(self, queue: str, exchange: str) -> bool:
        there = await self._bindings()
        return any((each.queue, each.exchange) == (queue, exchange) for each in there)

    async def routes(self, exchange: str, keys: Collection[str]) -> dict[str, RouteState]:
        if not self._path.exists():
            return dict.fromkeys(keys, RouteState.NO_EXCHANGE)
        return await self._read(partial(schema.routes, exchange=exchange, keys=keys))

    async def health(self) -> BrokerHealth:
        return BrokerHealth()

    async def held(self, _topology: Topology) -> dict[str, int]:
        return {}

    async def figures(self) -> BrokerFigures:
        if not self._path.exists():
            raise BrokerUnavailable("MQ_BROKER_URL: the file of the embedded broker is missing")
        queues = await self._read(broker_figures.queue_figures)
        return broker_figures.broker_figures(self._path, queues)

    async def _bindings(self) -> set[Binding]:
        # A question creates no file.
        return await self._read(routing.bindings) if self._path.exists() else set()

    async def _read(self, read: Callable[[sqlite3.Connection, int], Result]) -> Result:
        connection = SqliteConnection(self._path, prepare=schema.prepare, connections=NoCounter())
        try:
            return await connection.read(read)
        finally:
            await connection.close()
