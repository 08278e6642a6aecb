"""
A RabbitMQ cluster of three nodes on this machine.

Invariant: every node can be killed, frozen and started again; a majority keeps what it confirmed.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.servers.isolation import private_directory
from tests.support.servers.port_mapper import PortMapper
from tests.support.servers.private_rabbitmq import ClusterMembership, PrivateRabbitmq
from tests.support.servers.rabbitmq import RabbitmqServer

NODES = 3
COMPLETE = "Server startup complete"
"""Said later than clients are let in: until then a node takes no part in what others begin."""

FORMING_SECONDS = 60.0


class Node(RabbitmqServer):
    """One node of a cluster."""

    def __init__(self, instance: PrivateRabbitmq) -> None:
        super().__init__(instance.url, instance.management_url, instance)
        self.name = instance.name
        self._node = instance

    async def _answers(self) -> bool:
        return COMPLETE in self._node.output and await super()._answers()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the node during the block."""
        self._node.freeze()
        try:
            yield
        finally:
            self._node.thaw()


class RabbitmqCluster:
    """A cluster out of *binaries* with this handling of *partitions*; call `close` at the end."""

    def __init__(self, binaries: Path, *, partitions: str) -> None:
        directories = tuple(private_directory() for _ in range(NODES))
        mapper = PortMapper(directories[0])
        cluster = ClusterMembership(
            mapper=mapper, members=directories, schedulers=1, partitions=partitions
        )
        # Each node of RabbitMQ 4 waits for all nodes of its list before it forms the cluster.
        self._forms_early = "rabbitmq_server-3." in str(binaries)
        self.nodes = [
            Node(PrivateRabbitmq(binaries, directory=directory, cluster=cluster))
            for directory in directories
        ]

    async def start(self) -> None:
        """Start all nodes, and return when each of them knows the others."""
        if self._forms_early:
            # The first node forms the cluster, and the others join it.
            await self.nodes[0].start()
        for node in self.nodes:
            if not node.running:
                node.launch()
        for node in self.nodes:
            await node.ready()
        await eventually(self._is_whole, within=FORMING_SECONDS, message="no cluster was formed")

    async def revive(self) -> None:
        """Start the nodes that are down, and return when each of them knows the others."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            await node.ready()
        await eventually(self._is_whole, within=FORMING_SECONDS, message="a node did not join")

    def urls(self, vhost: str) -> str:
        """The URLs of all nodes, as the list of a client."""
        return ",".join(node.url(vhost) for node in self.nodes)

    async def leader(self, vhost: str, queue: str) -> Node:
        """The node that leads *queue*, as soon as it has three members."""

        async def named() -> str | None:
            found = await self.nodes[0].http.request("GET", "queues", vhost, queue)
            return found.get("leader") if len(found.get("online", ())) == NODES else None

        name = await eventually(named, within=30, message=f"{queue} has not {NODES} members")
        return next(node for node in self.nodes if node.name == name)

    def close(self) -> None:
        """End all nodes."""
        with ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.close)

    async def _is_whole(self) -> bool:
        known = await self.nodes[0].http.request("GET", "nodes")
        return len([node for node in known if node.get("running")]) == NODES
