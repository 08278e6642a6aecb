"""
The ways from each kind of process to each server, which a run can disturb one by one.
"""

from contextlib import AsyncExitStack
from typing import Self

from reliability.site import Site
from tests.support.traps import TrapProxy


class Ways:
    """
    Proxies in front of both servers, to be used in `async with`.

    Attributes:
        relay_database, relay_broker: Of all relays.
        consumer_database, consumer_broker: Of all consumers.
        producer_database: Of all producers.

    """

    def __init__(self, site: Site) -> None:
        self.relay_database = TrapProxy(site.database_url)
        self.relay_broker = TrapProxy(site.broker_url)
        self.consumer_database = TrapProxy(site.database_url)
        self.consumer_broker = TrapProxy(site.broker_url)
        self.producer_database = TrapProxy(site.database_url)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for way in (*self.to_database, *self.to_broker):
            await self._stack.enter_async_context(way)
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self._stack.aclose()

    @property
    def to_database(self) -> list[TrapProxy]:
        """Those of relays, consumers and producers to Postgres."""
        return [self.relay_database, self.consumer_database, self.producer_database]

    @property
    def to_broker(self) -> list[TrapProxy]:
        """Those of relays and consumers to RabbitMQ."""
        return [self.relay_broker, self.consumer_broker]
