"""
Where the server of MQ_BROKER_URL is, and clients whose connections find it by themselves.

    one server     its address
    Sentinels      the address that the first of them to answer has for the primary of the service
    a cluster      the primary that has the slot of HASH_TAG, from the first node to answer

The address is looked up for each new connection. After a failover the server of an open connection
refuses each write (READONLY, MOVED), which ends the connection, and the next one finds the new
primary. So a process that asks a Sentinel with an old answer writes nothing in the wrong place,
unless that server takes itself for the primary as well: see `min-replicas-to-write`.

All keys of a broker have one hash tag and so one slot, since a script uses keys of several queues:
a cluster keeps the broker available, and does not make it faster.

`redis` has documented neither `Connection._connect` nor `_connection_arguments`, which its own
subclass for Sentinel uses in the same way: its minor version is pinned.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from yarl import URL

from outbox.errors import BrokerUnavailable
from outbox.redis_urls import database_of
from outbox.transports.base import ConnectionCounter, NoCounter
from outbox.transports.redis.connect_errors import SETTING, redis_errors, unavailable
from outbox.transports.redis_facts import ServerGroup
from outbox.transports.tls import context_of

HASH_TAG = b"{mq}"
DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
CONNECT_WITHIN = timedelta(seconds=5)
LOOK_UP_WITHIN = timedelta(seconds=2)
"""For each Sentinel or node that is asked."""

HostAndPort: TypeAlias = tuple[str, int]
Find: TypeAlias = Callable[[], Awaitable[HostAndPort]]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """
    The parts of the URLs in MQ_BROKER_URL, which `outbox.redis_urls` has checked.

    Args:
        hosts: The server; or the Sentinels, or nodes of the cluster, in the order to ask them.
        service: The name that Sentinels know the primary by; None without Sentinels.
        login: User and password of the server, as options of a client; likewise *sentinel_login*.
        url: The first URL, which names the files of TLS.

    """

    hosts: tuple[HostAndPort, ...]
    database: int
    service: str | None
    is_cluster: bool
    url: URL = field(repr=False)
    login: Mapping[str, str | None] = field(repr=False)
    sentinel_login: Mapping[str, str | None] = field(repr=False)

    @classmethod
    def of(cls, urls: Sequence[URL]) -> "RedisAddress":
        """Return the address in *urls*, of which there is at least one."""
        first = urls[0]
        service = first.query.get("sentinel")
        port = DEFAULT_PORT if service is None else DEFAULT_SENTINEL_PORT
        return cls(
            hosts=tuple((url.host or "localhost", url.port or port) for url in urls),
            database=int(database_of(first)),
            service=service,
            is_cluster="cluster" in first.query,
            url=first,
            login={"username": first.user or None, "password": first.password},
            sentinel_login={
                "username": first.query.get("sentinel_user"),
                "password": first.query.get("sentinel_password"),
            },
        )

    @property
    def group(self) -> ServerGroup:
        """To which servers the URLs lead."""
        if self.service is not None:
            return ServerGroup.SENTINEL
        return ServerGroup.CLUSTER if self.is_cluster else ServerGroup.SINGLE

    def __str__(self) -> str:
        return shown(self.hosts)


def shown(hosts: Sequence[HostAndPort]) -> str:
    """Return *hosts* for an error message."""
    return ", ".join(f"{host}:{port}" for host, port in hosts)


def open_client(
    urls: Sequence[URL],
    *,
    name: str,
    reply_within: timedelta | None = None,
    connections: ConnectionCounter | None = None,
) -> "Redis":
    """
    Return a client of the server at *urls*; it connects when it is first used.

    Its replies are bytes in the shapes of RESP 2. It never sends a command twice: only its caller
    knows whether that would be right. Use it in `redis_errors`.

    Args:
        urls: Those of MQ_BROKER_URL, which the settings have checked.
        name: The server shows it for the connections (`CLIENT LIST`); without blanks.
        reply_within: The longest time to wait for a reply; above the time for which a command
            blocks. None: as long as the connection lives.
        connections: Counts the connections that are open.

    """
    address = RedisAddress.of(urls)
    options = {
        **address.login,
        "db": address.database,
        "client_name": name.replace(" ", "-"),
        "socket_timeout": None if reply_within is None else reply_within.total_seconds(),
        "socket_connect_timeout": CONNECT_WITHIN.total_seconds(),
        "connections": connections or NoCounter(),
    }
    return _client(address, finder(address), options)


def finder(address: RedisAddress) -> Find:
    """Return the function that finds the server of *address*; it raises BrokerUnavailable."""
    if address.service is not None:
        return _Search(address, _primary_of(address.service), address.sentinel_login)
    if address.is_cluster:
        return _Search(address, _owner_of_slot, address.login)

    async def fixed() -> HostAndPort:
        return address.hosts[0]

    return fixed


class FoundConnection(Connection):
    """A connection to the server that *find* returns, which is asked for each attempt."""

    def __init__(
        self, *, find: Find, address: RedisAddress, connections: ConnectionCounter, **options: Any
    ) -> None:
        super().__init__(**options)
        self._find = find
        self._address = address
        self._connections = connections
        self._is_counted = False

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError) as error:
            where = f"cannot connect to {shown([(self.host, self.port)])}"
            encrypted = self._address.url.scheme == "rediss"
            raise unavailable(error, where, encrypted=encrypted) from None
        self._is_counted = True
        self._connections.inc()

    def _connection_arguments(self) -> Mapping[str, Any]:
        where = shown([(self.host, self.port)])
        # Made for each connection: an operator replaces certificates while processes run.
        context = context_of(self._address.url, address=where)
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


Ask: TypeAlias = Callable[["Redis", HostAndPort], Awaitable[HostAndPort | None]]


@dataclass(frozen=True, slots=True)
class _Search:
    """
    Asks the hosts of *address* one after another, with *login*, until one knows the server.

    Those that do not answer cost LOOK_UP_WITHIN each.
    """

    address: RedisAddress
    ask: Ask
    login: Mapping[str, str | None] = field(repr=False)

    async def __call__(self) -> HostAndPort:
        problems: list[BrokerUnavailable] = []
        for host in self.address.hosts:
            try:
                if (found := await self._answer_of(host)) is not None:
                    return found
            except BrokerUnavailable as error:
                problems.append(error)
            else:
                problems.append(BrokerUnavailable(f"{shown([host])}: {self._unknown}"))
        raise BrokerUnavailable(
            "; ".join(str(problem).removeprefix(SETTING) for problem in problems),
            refused=all(each.refused for each in problems),
        )

    async def _answer_of(self, host: HostAndPort) -> HostAndPort | None:
        async def fixed() -> HostAndPort:
            return host

        seconds = LOOK_UP_WITHIN.total_seconds()
        options = {
            **self.login,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "connections": NoCounter(),
        }
        client = _client(self.address, fixed, options)
        try:
            with redis_errors(shown([host]), encrypted=self.address.url.scheme == "rediss"):
                return await self.ask(client, host)
        finally:
            await client.aclose()

    @property
    def _unknown(self) -> str:
        if self.address.service is None:
            return "the cluster has no primary for the keys"
        return "the Sentinel does not know the primary that sentinel names"


def _client(address: RedisAddress, find: Find, options: Mapping[str, Any]) -> "Redis":
    pool = ConnectionPool(
        connection_class=FoundConnection,
        find=find,
        address=address,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
        **options,
    )
    return Redis.from_pool(pool)


def _primary_of(service: str) -> Ask:
    async def ask(client: "Redis", _host: HostAndPort) -> HostAndPort | None:
        words = "SENTINEL GET-MASTER-ADDR-BY-NAME", service
        found: Any = await client.execute_command(*words)  # type: ignore[no-untyped-call]
        return None if found is None else (_text(found[0]), int(found[1]))

    return ask


async def _owner_of_slot(client: "Redis", host: HostAndPort) -> HostAndPort | None:
    slot = key_slot(HASH_TAG)
    found: Any = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
    for first, last, primary, *_replicas in found:
        if first <= slot <= last:
            # Empty, if the node does not know the name by which others reach itself.
            return _text(primary[0] or b"") or host[0], int(primary[1])
    return None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
