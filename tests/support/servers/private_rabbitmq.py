"""
A RabbitMQ of the tests' own, out of the programs of this machine.

Invariants:

- Everything listens on the loopback only: broker, management API and Erlang's distribution.
- Node and port mapper are children of the tests. RUNNING_UNDER_SYSTEMD lets the start script turn
  into the virtual machine, instead of waiting for it in between and losing it when killed.
- Names are resolved out of a file, by the virtual machine itself: the helper process that asks
  the system instead would be left to be collected by whoever adopts orphans.
- No alarm for little disk or memory blocks the publishers of a small machine.

To stop in good order takes 6 s, 5 of which the management plugin waits in vain; to start, 5 s.
"""

import asyncio
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import ChildProcess
from tests.support.servers.instance import AdministrationError
from tests.support.servers.isolation import DISK, plain_environment, private_directory
from tests.support.servers.management import QUICK_FIGURES
from tests.support.servers.port_mapper import PortMapper
from tests.support.servers.ports import free_ports

USER = "tests"
STOP_SECONDS = 30.0
ADMINISTER_SECONDS = 60.0
CONFIGURATION = """
listeners.tcp.local = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {http}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {metrics}
default_user = {user}
default_pass = {password}
default_user_tags.administrator = true
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.relative = 0.9
"""
CLUSTER = """
cluster_partition_handling = {partitions}
cluster_formation.peer_discovery_backend = classic_config
"""
LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
SOON_DEAD = "-kernel net_ticktime 8"
"""Seconds, instead of 60, after which a node that says nothing is taken for dead."""

NAMES = '{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n'


@dataclass(frozen=True, kw_only=True)
class ClusterMembership:
    """
    The settings that the nodes of a cluster share.

    Args:
        members: The directories of all nodes, from which the names derive; for a cluster.
        schedulers: How many threads each node works with.
        partitions: RabbitMQ's `cluster_partition_handling`.

    """

    mapper: PortMapper
    members: tuple[Path, ...] = ()
    schedulers: int = 2
    partitions: str = "ignore"
    cookie: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)


class PrivateRabbitmq:
    """
    One node.

    Args:
        binaries: The directory of `rabbitmq-server`.
        directory: Its own, empty one.
        cluster: The cluster that it belongs to; by default it is alone, with a port mapper.
        disk: Where its messages are; in its directory by default.
        parent: Where the directory is, if none is given.

    """

    stoppable = True

    def __init__(
        self,
        binaries: Path,
        *,
        directory: Path | None = None,
        cluster: ClusterMembership | None = None,
        disk: Path | None = None,
        parent: Path = DISK,
    ) -> None:
        self._amqp, self._http, self.metrics_port, self._distribution = free_ports(4)
        self._binaries = binaries
        self.directory = directory or private_directory(parent=parent)
        self.cluster = cluster or ClusterMembership(mapper=PortMapper(self.directory))
        self._messages = (disk or self.directory) / "mnesia"
        self._write_files()
        self._node = ChildProcess(
            [binaries / "rabbitmq-server"],
            log=self.directory / "rabbitmq.log",
            env=self._environment(),
            inherit=False,
            cwd=self.directory,
        )

    @property
    def name(self) -> str:
        """The name of the node in its cluster."""
        return node_name(self.directory)

    @property
    def url(self) -> str:
        """The administrator's URL."""
        return f"amqp://{USER}:{self.cluster.password}@127.0.0.1:{self._amqp}"

    @property
    def management_url(self) -> str:
        """The URL of the management API."""
        return f"http://{USER}:{self.cluster.password}@127.0.0.1:{self._http}"

    @property
    def pids(self) -> list[int]:
        """The ids of the node and of its port mapper."""
        return [self._node.pid, self.cluster.mapper.pid]

    @property
    def running(self) -> bool:
        return self._node.running

    @property
    def tail(self) -> str:
        return self._node.tail

    @property
    def output(self) -> str:
        """The output since the last start."""
        return self._node.output

    @property
    def log(self) -> bytes:
        return self._node.log.read_bytes()

    def launch(self) -> None:
        if self.running:
            return
        self.cluster.mapper.start(self.name)
        self._node.start()

    async def stop(self) -> None:
        await self._node.terminate(within=STOP_SECONDS)
        self.cluster.mapper.release(self.name)

    async def kill(self) -> None:
        self._node.kill()
        self.cluster.mapper.release(self.name)

    def freeze(self) -> None:
        """Freeze the node: its connections stay open, and it sends no reply."""
        self._node.freeze()

    def thaw(self) -> None:
        """Let a frozen node go on."""
        self._node.thaw()

    async def administer(self, program: str, *arguments: str) -> None:
        running = asyncio.create_task(asyncio.to_thread(self._run, program, *arguments))
        try:
            done = await asyncio.shield(running)
        except asyncio.CancelledError:
            # Otherwise it would take effect only after the call that reverts it.
            await running
            raise
        if done.returncode:
            output = (done.stdout + done.stderr).decode(errors="replace")
            raise AdministrationError(f"{program}: {output}")

    def close(self) -> None:
        self._node.close()
        self.cluster.mapper.release(self.name)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write_files(self) -> None:
        (self.directory / "rabbitmq.conf").write_text(
            CONFIGURATION.format(
                amqp=self._amqp,
                http=self._http,
                metrics=self.metrics_port,
                user=USER,
                password=self.cluster.password,
            )
            + self._membership()
        )
        (self.directory / "enabled_plugins").write_text(
            "[rabbitmq_management,rabbitmq_prometheus,rabbitmq_amqp1_0,"
            "rabbitmq_consistent_hash_exchange].\n"
        )
        (self.directory / "inetrc").write_text(NAMES)
        (self.directory / "rabbitmq-env.conf").touch()  # or it reads the machine's own
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(self.cluster.cookie)
        cookie.chmod(0o400)

    def _membership(self) -> str:
        if not self.cluster.members:
            return ""
        names = [node_name(directory) for directory in self.cluster.members]
        listed = [f"nodes.{number} = {name}" for number, name in enumerate(names, start=1)]
        here = CLUSTER.format(partitions=self.cluster.partitions)
        return here + "".join(f"cluster_formation.classic_config.{line}\n" for line in listed)

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._binaries / program, *arguments],
            env=self._visitor_environment(),
            cwd=self.directory,
            timeout=ADMINISTER_SECONDS,
            capture_output=True,
            check=False,
        )

    def _visitor_environment(self) -> dict[str, str]:
        """For a second virtual machine that speaks to the node: it needs a port of its own."""
        environment = {**self._environment(), "ERL_FLAGS": LOOPBACK_ONLY}
        del environment["RABBITMQ_DIST_PORT"]
        return environment

    def _environment(self) -> dict[str, str]:
        here, threads = self.directory, self.cluster.schedulers
        return plain_environment(
            HOME=str(here),
            **self.cluster.mapper.environment,
            ERL_INETRC=str(here / "inetrc"),
            ERL_FLAGS=f"+S {threads}:{threads} {LOOPBACK_ONLY} {QUICK_FIGURES} {SOON_DEAD}",
            RUNNING_UNDER_SYSTEMD="true",
            RABBITMQ_NODENAME=self.name,
            RABBITMQ_NODE_PORT=str(self._amqp),
            RABBITMQ_DIST_PORT=str(self._distribution),
            RABBITMQ_CONF_ENV_FILE=str(here / "rabbitmq-env.conf"),
            RABBITMQ_CONFIG_FILE=str(here / "rabbitmq.conf"),
            RABBITMQ_ADVANCED_CONFIG_FILE=str(here / "none.config"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(here / "enabled_plugins"),
            RABBITMQ_MNESIA_BASE=str(self._messages),
            RABBITMQ_LOG_BASE=str(here),
            RABBITMQ_LOGS="-",
            RABBITMQ_PID_FILE=str(here / "node.pid"),
        )


def node_name(directory: Path) -> str:
    """The name of the node whose own *directory* is this."""
    return f"{directory.name}@localhost"
