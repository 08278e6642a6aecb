"""
Questions to a server of Redis; see `outbox.transports.management`. It has no policies.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from redis.asyncio import Redis
from yarl import URL

from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.broker_figures import BrokerFigures, NodeFigures, QueueFigures
from outbox.transports.inspection import BrokerFacts
from outbox.transports.management import BrokerHealth, PolicyEffect, unwanted
from outbox.transports.redis.addresses import RedisAddress, open_client
from outbox.transports.redis.connect_errors import redis_errors
from outbox.transports.redis.inspection import inspect
from outbox.transports.redis.messages import Messages
from outbox.transports.routes import RouteState
from outbox.transports.topology import Binding, ExchangeBinding, Topology

_REPLY_WITHIN = timedelta(seconds=10)


class RedisManagement:
    """The broker in the server at *urls*; the server shows *name* for the connections."""

    def __init__(self, urls: Sequence[URL], *, name: str) -> None:
        self._urls = urls
        self._name = name

    async def policies(self, _topology: Topology) -> list[PolicyEffect]:
        return []

    async def unlike_limits(self, _topology: Topology) -> list[TopologyMismatch]:
        return []  # `verify` compares them

    async def missing_bindings(self, topology: Topology) -> list[Binding | ExchangeBinding]:
        async with self._messages() as messages:
            there = (await messages.declarations()).bindings
        return [binding for binding in topology.bindings if binding not in there]

    async def unwanted_bindings(self, topology: Topology) -> list[Binding]:
        queues = {queue.name for queue in topology.queues}
        async with self._messages() as messages:
            there = (await messages.declarations()).bindings
        return unwanted(topology, [each for each in there if each.queue in queues])

    async def queues(self, prefix: str) -> list[str]:
        async with self._messages() as messages:
            there = (await messages.declarations()).queues
        return sorted(name for name in there if name.startswith(prefix))

    async def is_bound(self, queue: str, exchange: str) -> bool:
        async with self._messages() as messages:
            there = (await messages.declarations()).bindings
        return any((each.queue, each.exchange) == (queue, exchange) for each in there)

    async def routes(self, exchange: str, keys: Collection[str]) -> dict[str, RouteState]:
        async with self._messages() as messages:
            return (await messages.declarations()).routes(exchange, keys)

    async def health(self) -> BrokerHealth:
        facts = await self._facts()
        if (redis := facts.redis) is None:
            return BrokerHealth()
        is_full = redis.memory_limit and (redis.memory_used or 0) >= redis.memory_limit
        alarms = {
            "memory": bool(is_full),
            "the append-only file": bool(redis.last_append_failed),
        }
        raised = [f"{name} on {self._address}" for name, is_raised in alarms.items() if is_raised]
        return BrokerHealth(alarms=raised, clock=redis.clock)

    async def held(self, _topology: Topology) -> dict[str, int]:
        return {}  # a message that no queue takes can be delivered where it is

    async def figures(self) -> BrokerFigures:
        async with self._messages() as messages:
            names = sorted((await messages.declarations()).queues)
            found = {name: await messages.figures(name) for name in names}
        facts = await self._facts()
        node = NodeFigures(
            name=str(self._address),
            memory_used=None if facts.redis is None else facts.redis.memory_used,
            memory_limit=(facts.redis.memory_limit if facts.redis else None) or None,
        )
        queues = [
            QueueFigures(name=name, messages=each[0], unsettled=each[1], consumers=each[2])
            for name, each in found.items()
            if each is not None
        ]
        return BrokerFigures(version=facts.version, queues=queues, nodes=[node])

    @property
    def _address(self) -> RedisAddress:
        return RedisAddress.of(self._urls)

    async def _facts(self) -> BrokerFacts:
        async with self._client() as client:
            return await inspect(client, self._urls)

    @asynccontextmanager
    async def _messages(self) -> AsyncIterator[Messages]:
        async with self._client() as client:
            yield Messages(client)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Redis]:
        client = open_client(self._urls, name=self._name, reply_within=_REPLY_WITHIN)
        try:
            yield client
        finally:
            with suppress(BrokerUnavailable), redis_errors():
                await client.aclose()
