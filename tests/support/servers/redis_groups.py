"""
Redis on several servers: a pair of primary and replica with three Sentinels, and a cluster.

Invariant: every server can be killed, frozen and started again.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.servers.isolation import DISK
from tests.support.servers.private_redis import PrivateRedis, PrivateSentinel
from tests.support.servers.redis import RedisServer

SERVICE = "mq"
SENTINELS = 3
QUORUM = 2
NODES = 3
SLOTS = 16_384
FORMING_SECONDS = 30.0


class Member(RedisServer):
    """A server of a group."""

    def __init__(self, instance: PrivateRedis) -> None:
        super().__init__(instance.url, instance)
        self.node = instance

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.node.port}"

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server during the block."""
        self.node.freeze()
        try:
            yield
        finally:
            self.node.thaw()

    async def facts(self, section: str) -> dict[str, str]:
        """Return what INFO says in *section*."""
        found: Any = await self.call("INFO", section)
        lines = (line.partition(":") for line in found.decode().splitlines())
        return {name: value for name, colon, value in lines if colon}


class RedisPair:
    """
    A primary, its replica and Sentinels, out of *binaries*; call `close` at the end.

    *settings* are those of both servers.
    """

    def __init__(
        self,
        binaries: Path,
        *,
        settings: Mapping[str, str | int] | None = None,
        parent: Path = DISK,
    ) -> None:
        first = PrivateRedis(binaries, settings=settings, parent=parent)
        following = {**(settings or {}), "replicaof": f"127.0.0.1 {first.port}"}
        second = PrivateRedis(binaries, settings=following, password=first.password, parent=parent)
        self.servers = [Member(first), Member(second)]
        self._password, self._of_sentinels = first.password, secrets.token_hex(16)
        watching: dict[str, Any] = {
            "service": SERVICE,
            "quorum": QUORUM,
            "password": self._of_sentinels,
        }
        self.sentinels = [
            Member(PrivateSentinel(binaries, first, parent=parent, **watching))
            for _ in range(SENTINELS)
        ]

    async def start(self) -> None:
        """Start all, and return when the replica follows and each Sentinel knows the others."""
        for server in self.servers:
            await server.start()
        await eventually(self._is_followed, within=FORMING_SECONDS, message="no replica follows")
        for sentinel in self.sentinels:
            await sentinel.start()
        await eventually(self._is_watched, within=FORMING_SECONDS, message="Sentinels lack one")

    def url(self, database: int = 0) -> str:
        """Return the URL of the primary, by way of the Sentinels."""
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return (
            f"redis://default:{self._password}@{hosts}/{database}"
            f"?sentinel={SERVICE}&sentinel_password={self._of_sentinels}"
        )

    async def primary(self) -> Member:
        """Return the server that the first running Sentinel names as the primary."""
        running = next(sentinel for sentinel in self.sentinels if sentinel.running)
        found: Any = await running.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        port = int(found[1])
        return next(server for server in self.servers if server.node.port == port)

    async def fail_over_from(self, lost: Member) -> Member:
        """Return the new primary, once Sentinels have replaced *lost*."""

        async def replacement() -> Member | None:
            found = await self.primary()
            if found is lost or (await found.facts("replication"))["role"] != "master":
                return None
            return found

        return await eventually(replacement, within=FORMING_SECONDS, message="no failover")

    async def sees_replica(self) -> None:
        """Return when no Sentinel takes the replica for down."""

        async def is_up() -> bool:
            for sentinel in self.sentinels:
                found: Any = await sentinel.call("SENTINEL", "REPLICAS", SERVICE)
                known = [dict(zip(each[::2], each[1::2], strict=True)) for each in found]
                if any(b"s_down" in each[b"flags"] for each in known):
                    return False
            return True

        await eventually(is_up, within=FORMING_SECONDS, message="the replica is taken for down")

    def close(self) -> None:
        """End all servers."""
        _close([*self.sentinels, *self.servers])

    async def _is_followed(self) -> bool:
        return (await self.servers[1].facts("replication"))["master_link_status"] == "up"

    async def _is_watched(self) -> bool:
        for sentinel in self.sentinels:
            found: Any = await sentinel.call("SENTINEL", "MASTER", SERVICE)
            known = dict(zip(found[::2], found[1::2], strict=True))
            if int(known[b"num-slaves"]) < 1 or int(known[b"num-other-sentinels"]) < SENTINELS - 1:
                return False
        return True


class RedisCluster:
    """A cluster of NODES primaries out of *binaries*; call `close` at the end."""

    def __init__(self, binaries: Path, *, parent: Path = DISK) -> None:
        password = secrets.token_hex(16)
        self.nodes = [
            Member(PrivateRedis(binaries, password=password, is_node=True, parent=parent))
            for _ in range(NODES)
        ]

    async def start(self) -> None:
        """Start all nodes, and return when each of them knows who has which slots."""
        for node in self.nodes:
            await node.start()
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            begin, end = (SLOTS * n // NODES for n in (number, number + 1))
            await node.call("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
        for node in others:
            await first.call("CLUSTER", "MEET", "127.0.0.1", node.node.port, node.node.bus_port)
        await eventually(self._is_whole, within=FORMING_SECONDS, message="no cluster was formed")

    @property
    def url(self) -> str:
        """The URL of all nodes."""
        hosts = ",".join(node.address for node in self.nodes)
        return f"redis://default:{self.nodes[0].node.password}@{hosts}?cluster=true"

    async def owner(self, key: str) -> Member:
        """Return the node that has the slot of *key*."""
        slot: Any = await self.nodes[0].call("CLUSTER", "KEYSLOT", key)
        found: Any = await self.nodes[0].call("CLUSTER", "SLOTS")
        for first, last, primary, *_ in found:
            if first <= slot <= last:
                return next(node for node in self.nodes if node.node.port == primary[1])
        raise AssertionError(f"no node has the slot of {key}")

    async def move_empty_slot(self, key: str, target: Member) -> None:
        """Give the slot of *key*, which has no keys, to the node *target*."""
        slot: Any = await self.nodes[0].call("CLUSTER", "KEYSLOT", key)
        name: Any = await target.call("CLUSTER", "MYID")
        for node in (target, *self.nodes):
            await node.call("CLUSTER", "SETSLOT", slot, "NODE", name.decode())

    def close(self) -> None:
        """End all nodes."""
        _close(self.nodes)

    async def _is_whole(self) -> bool:
        states: list[Any] = [await node.call("CLUSTER", "INFO") for node in self.nodes]
        whole = (b"cluster_state:ok", b"cluster_known_nodes:%d" % NODES)
        return all(part in state for state in states for part in whole)


def _close(members: Sequence[Member]) -> None:
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.close)
