"""
A Redis or Valkey of the tests' own, out of the programs of this machine.

Invariants:

- It listens on the loopback only, and asks for a password there too.
- It has a write on disk before it replies (`appendfsync always`), because fault tests take it at
  its word.
- The password is in a file and not in the list of processes.
"""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.certificates import Authority, Pair
from tests.support.processes import ChildProcess
from tests.support.servers.binaries import REDIS_PROGRAMS
from tests.support.servers.isolation import DISK, plain_environment, private_directory
from tests.support.servers.ports import free_ports

DATABASES = 1_000
SETTINGS: Mapping[str, str | int] = {
    "bind": "127.0.0.1",
    "daemonize": "no",
    "databases": DATABASES,
    "appendonly": "yes",
    "appendfsync": "always",
    "save": '""',
    "maxmemory-policy": "noeviction",
    "enable-debug-command": "local",
}

CLUSTERED: Mapping[str, str | int] = {
    "databases": 1,
    "cluster-enabled": "yes",
    "cluster-node-timeout": 2_000,
}
DOWN_AFTER_MILLISECONDS = 1_000
FAILOVER_TIMEOUT_MILLISECONDS = 3_000


class RedisTls(NamedTuple):
    """What a server presents; with *clients_of* it demands a certificate of that authority."""

    pair: Pair
    clients_of: Authority | None = None


class PrivateRedis:
    """
    One server.

    Args:
        binaries: The directory of one of REDIS_PROGRAMS.
        settings: Settings of its file, besides SETTINGS or in the place of some.
        password: That of the user `default`; made of chance by default.
        tls: What it presents; it then listens with TLS only.
        is_node: Whether it is to be a node of a cluster.
        arguments: Further words of the command.
        parent: Where its own directory is.

    """

    stoppable = True

    def __init__(
        self,
        binaries: Path,
        *,
        settings: Mapping[str, str | int] | None = None,
        password: str | None = None,
        tls: RedisTls | None = None,
        is_node: bool = False,
        arguments: tuple[str, ...] = (),
        parent: Path = DISK,
    ) -> None:
        self.port, self.bus_port = free_ports(2)
        self.password = password or secrets.token_hex(16)
        self.directory = private_directory(parent=parent)
        self.tls = tls
        # It rewrites the file when a Sentinel gives it another role.
        self._file = self.directory / "redis.conf"
        of_node = {**CLUSTERED, "cluster-port": self.bus_port} if is_node else {}
        self._write_file({**SETTINGS, **self._of_port(), **of_node, **(settings or {})})
        self._process = ChildProcess(
            [binaries / program_in(binaries), self._file, *arguments],
            log=self.directory / "redis.log",
            env=plain_environment(),
            inherit=False,
            cwd=self.directory,
        )

    @property
    def url(self) -> str:
        """The URL for clients, without a database."""
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}://default:{self.password}@127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def tail(self) -> str:
        return self._process.tail

    @property
    def log(self) -> bytes:
        return self._process.log.read_bytes()

    def launch(self) -> None:
        if not self.running:
            self._process.start()

    async def stop(self) -> None:
        await self._process.terminate()

    async def kill(self) -> None:
        self._process.kill()

    def freeze(self) -> None:
        """Freeze the server: its connections stay open, and it sends no reply."""
        self._process.freeze()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._process.thaw()

    def close(self) -> None:
        self._process.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _of_port(self) -> dict[str, str | int]:
        own: dict[str, str | int] = {
            "dir": str(self.directory),
            "requirepass": self.password,
            "masterauth": self.password,
        }
        if self.tls is None:
            return {**own, "port": self.port}
        own |= {
            "port": 0,
            "tls-port": self.port,
            "tls-cert-file": str(self.tls.pair.certificate),
            "tls-key-file": str(self.tls.pair.key),
            "tls-auth-clients": "no",
        }
        if self.tls.clients_of is not None:
            own |= {"tls-auth-clients": "yes", "tls-ca-cert-file": str(self.tls.clients_of.path)}
        return own

    def _write_file(self, settings: Mapping[str, str | int]) -> None:
        self._file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self._file.chmod(0o600)


class PrivateSentinel(PrivateRedis):
    """A Sentinel that watches *primary* as *service*; *quorum* of them decide that it is down."""

    def __init__(
        self,
        binaries: Path,
        primary: PrivateRedis,
        *,
        service: str,
        quorum: int,
        password: str,
        parent: Path = DISK,
    ) -> None:
        self._watched = [
            f"monitor {service} 127.0.0.1 {primary.port} {quorum}",
            f"auth-pass {service} {primary.password}",
            f"down-after-milliseconds {service} {DOWN_AFTER_MILLISECONDS}",
            f"failover-timeout {service} {FAILOVER_TIMEOUT_MILLISECONDS}",
        ]
        super().__init__(binaries, password=password, arguments=("--sentinel",), parent=parent)

    def _write_file(self, settings: Mapping[str, str | int]) -> None:
        kept = ("bind", "daemonize", "dir", "port", "requirepass")
        super()._write_file({name: settings[name] for name in kept})
        with self._file.open("a") as file:
            file.writelines(f"sentinel {line}\n" for line in self._watched)


def program_in(binaries: Path) -> str:
    """Return the first of REDIS_PROGRAMS that is in the directory *binaries*."""
    return next(name for name in REDIS_PROGRAMS if (binaries / name).is_file())
