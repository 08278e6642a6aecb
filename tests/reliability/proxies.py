"""
The proxies between each kind of process and each server; a run can disturb each on its own.
"""

from contextlib import AsyncExitStack
from typing import Self

from tests.support.breakpoints import BreakpointProxy
from tests.support.environment import Environment


class Proxies:
    """
    Proxies in front of both servers; an async context manager.

    Attributes:
        relay_database, relay_broker: Used by all relays.
        consumer_database, consumer_broker: Used by all consumers.
        producer_database: Used by all producers.
        named: All of them, by their descriptions.
    """

    def __init__(self, environment: Environment) -> None:
        self.relay_database = BreakpointProxy(environment.database_url)
        self.relay_broker = BreakpointProxy(environment.broker_url)
        self.consumer_database = BreakpointProxy(environment.database_url)
        self.consumer_broker = BreakpointProxy(environment.broker_url)
        self.producer_database = BreakpointProxy(environment.database_url)
        self.named = {
            "relays and Postgres": self.relay_database,
            "relays and RabbitMQ": self.relay_broker,
            "consumers and Postgres": self.consumer_database,
            "consumers and RabbitMQ": self.consumer_broker,
            "producers and Postgres": self.producer_database,
        }
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for proxy in self.named.values():
            await self._stack.enter_async_context(proxy)
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self._stack.aclose()

    def name(self, proxy: BreakpointProxy) -> str:
        """The description of *proxy*."""
        return next(name for name, other in self.named.items() if other is proxy)
