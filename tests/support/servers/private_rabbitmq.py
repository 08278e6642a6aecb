"""
A RabbitMQ of the tests' own, out of the programs of this machine.

Invariants:

- Everything listens on the loopback only: broker, management API, Erlang's distribution and its
  port mapper (epmd), which is private too, so that no other node is seen or disturbed.
- The two processes are children of the tests. RUNNING_UNDER_SYSTEMD lets the start script turn
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
from pathlib import Path

from tests.support.processes import ChildProcess
from tests.support.servers.ground import plain_environment, private_directory
from tests.support.servers.instance import AdministrationError
from tests.support.servers.management import QUICK_FIGURES
from tests.support.servers.ports import free_ports

USER = "tests"
STOP_SECONDS = 30.0
ADMINISTER_SECONDS = 60.0
CONFIGURATION = """
listeners.tcp.local = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {http}
default_user = {user}
default_pass = {password}
default_user_tags.administrator = true
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.relative = 0.9
"""
LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
ERLANG = f"+S 2:2 {LOOPBACK_ONLY}"
NAMES = '{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n'


class PrivateRabbitmq:
    """One node and its port mapper; *binaries* holds `rabbitmq-server`."""

    stoppable = True

    def __init__(self, binaries: Path) -> None:
        self._amqp, self._http, self._distribution, self._epmd = free_ports(4)
        self._password = secrets.token_hex(16)
        self._binaries = binaries
        self.directory = private_directory()
        self._write_files()
        environment = self._environment()
        self._port_mapper = ChildProcess(
            ["epmd", "-port", str(self._epmd), "-address", "127.0.0.1"],
            log=self.directory / "epmd.log",
            env=environment,
            inherit=False,
            cwd=self.directory,
        )
        self._node = ChildProcess(
            [binaries / "rabbitmq-server"],
            log=self.directory / "rabbitmq.log",
            env=environment,
            inherit=False,
            cwd=self.directory,
        )

    @property
    def url(self) -> str:
        """The administrator's URL."""
        return f"amqp://{USER}:{self._password}@127.0.0.1:{self._amqp}"

    @property
    def management_url(self) -> str:
        """The URL of the management API."""
        return f"http://{USER}:{self._password}@127.0.0.1:{self._http}"

    @property
    def pids(self) -> list[int]:
        """The ids of the node and of its port mapper."""
        return [self._node.pid, self._port_mapper.pid]

    @property
    def running(self) -> bool:
        return self._node.running

    @property
    def tail(self) -> str:
        return self._node.tail

    @property
    def log(self) -> bytes:
        return self._node.log.read_bytes()

    def launch(self) -> None:
        if self.running:
            return
        if not self._port_mapper.running:
            self._port_mapper.start()
        self._node.start()

    async def stop(self) -> None:
        await self._node.terminate(within=STOP_SECONDS)
        self._port_mapper.close()

    async def kill(self) -> None:
        self._node.kill()
        self._port_mapper.close()

    async def administer(self, program: str, *arguments: str) -> None:
        running = asyncio.create_task(asyncio.to_thread(self._run, program, *arguments))
        try:
            done = await asyncio.shield(running)
        except asyncio.CancelledError:
            # Or else it would take effect after what is done to undo it.
            await running
            raise
        if done.returncode:
            output = (done.stdout + done.stderr).decode(errors="replace")
            raise AdministrationError(f"{program}: {output}")

    def close(self) -> None:
        self._node.close()
        self._port_mapper.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write_files(self) -> None:
        (self.directory / "rabbitmq.conf").write_text(
            CONFIGURATION.format(
                amqp=self._amqp, http=self._http, user=USER, password=self._password
            )
        )
        (self.directory / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.directory / "inetrc").write_text(NAMES)
        (self.directory / "rabbitmq-env.conf").touch()  # or else the machine's own is read
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)

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
        here = self.directory
        return plain_environment(
            HOME=str(here),
            ERL_EPMD_PORT=str(self._epmd),
            ERL_EPMD_ADDRESS="127.0.0.1",
            ERL_INETRC=str(here / "inetrc"),
            ERL_FLAGS=f"{ERLANG} {QUICK_FIGURES}",
            RUNNING_UNDER_SYSTEMD="true",
            RABBITMQ_NODENAME=f"{here.name}@localhost",
            RABBITMQ_NODE_PORT=str(self._amqp),
            RABBITMQ_DIST_PORT=str(self._distribution),
            RABBITMQ_CONF_ENV_FILE=str(here / "rabbitmq-env.conf"),
            RABBITMQ_CONFIG_FILE=str(here / "rabbitmq.conf"),
            RABBITMQ_ADVANCED_CONFIG_FILE=str(here / "none.config"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(here / "enabled_plugins"),
            RABBITMQ_MNESIA_BASE=str(here / "mnesia"),
            RABBITMQ_LOG_BASE=str(here),
            RABBITMQ_LOGS="-",
            RABBITMQ_PID_FILE=str(here / "node.pid"),
        )
