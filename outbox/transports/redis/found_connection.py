"""
A connection that finds its server by itself.

`redis` has documented neither `Connection._connect` nor `_connection_arguments`, which its own
subclass for Sentinel uses in the same way: its minor version is pinned.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from redis.asyncio import Connection
from yarl import URL

from outbox.transports.base import ConnectionCounter
from outbox.transports.redis.connect_errors import unavailable
from outbox.transports.tls import context_of

HostAndPort: TypeAlias = tuple[str, int]
Find: TypeAlias = Callable[[], Awaitable[HostAndPort]]


class FoundConnection(Connection):
    """A connection to the server that *find* returns, which is asked for each attempt."""

    def __init__(
        self, *, find: Find, url: URL, connections: ConnectionCounter, **options: Any
    ) -> None:
        super().__init__(**options)
        self._find = find
        self._url = url
        self._connections = connections
        self._is_counted = False

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError) as error:
            where = f"cannot connect to {shown([(self.host, self.port)])}"
            encrypted = self._url.scheme == "rediss"
            raise unavailable(error, where, encrypted=encrypted) from None
        self._is_counted = True
        self._connections.inc()

    def _connection_arguments(self) -> Mapping[str, Any]:
        where = shown([(self.host, self.port)])
        # Made for each connection: an operator replaces certificates while processes run.
        context = context_of(self._url, address=where)
        return {"host": self.host, "port": self.port, "ssl": context}

    async def disconnect(self, *arguments: Any, **options: Any) -> None:
        self._count_closed()
        await super().disconnect(*arguments, **options)

    def _close(self) -> None:
        self._count_closed()
        super()._close()  # type: ignore[no-untyped-call]

    def _count_closed(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._connections.dec()


def shown(hosts: Sequence[HostAndPort]) -> str:
    """Return *hosts* for an error message."""
    return ", ".join(f"{host}:{port}" for host, port in hosts)
