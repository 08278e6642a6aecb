"""
A Postgres of the tests' own, out of the programs of this machine.

Invariants:

- It listens on the loopback only, asks for a password there too, and never runs as root.
- It writes to disk before it confirms, because fault tests take it at its word.
- Its postmaster gets SIGQUIT instead of SIGKILL: the effect on the data is the same, that of a
  crash, but the processes of the clients' sessions end along with it.
"""

import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.engine import URL

from tests.support.processes import ChildProcess
from tests.support.servers.isolation import (
    DISK,
    group_of,
    plain_environment,
    private_directory,
    unprivileged_account,
)
from tests.support.servers.ports import free_port
from tests.support.servers.server import ServerError

USER = "tests"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "fsync": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
}


SMALL_SEGMENTS = ("--wal-segsize=1",)
"""For `initdb`, where there is little room: a segment of the WAL has 1 MB instead of 16."""


class PrivatePostgres:
    """
    One cluster of databases and its server.

    Args:
        binaries: The directory of `initdb` and `postgres`.
        disk: Where its data is; in a directory of its own by default.
        settings: Settings of the server besides those of all of them.
        creating: Further words for `initdb`.
        parent: Where its own directory is.

    """

    stoppable = True

    def __init__(
        self,
        binaries: Path,
        *,
        disk: Path | None = None,
        settings: Mapping[str, str] | None = None,
        creating: tuple[str, ...] = (),
        parent: Path = DISK,
    ) -> None:
        self._binaries = binaries
        self._account = unprivileged_account()
        self._password = secrets.token_hex(16)
        self._port = free_port()
        self._directory = private_directory(owner=self._account, parent=parent)
        self._data = (disk or self._directory) / "data"
        self._creating = creating
        all_settings = {**SETTINGS, **(settings or {})}
        self._process = ChildProcess(
            [
                binaries / "postgres",
                *("-D", self._data, "-p", str(self._port)),
                *("-c", f"unix_socket_directories={self._directory}"),
                *(w for name, value in all_settings.items() for w in ("-c", f"{name}={value}")),
            ],
            log=self._directory / "postgres.log",
            env=plain_environment(),
            inherit=False,
            cwd=self._directory,
            user=self._account,
            abrupt=signal.SIGQUIT,
        )

    @property
    def url(self) -> URL:
        """The superuser's URL."""
        return URL.create(
            "postgresql", USER, self._password, "127.0.0.1", self._port, database="postgres"
        )

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
        if self.running:
            return
        if not self._data.exists():
            self._create_cluster()
        self._process.start()

    async def stop(self) -> None:
        await self._process.terminate(by=signal.SIGINT)

    async def kill(self) -> None:
        await self._process.terminate(by=signal.SIGQUIT)

    def close(self) -> None:
        self._process.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _create_cluster(self) -> None:
        password_file = self._directory / "password"
        password_file.write_text(self._password)
        if self._account:
            shutil.chown(password_file, self._account)
        try:
            self._run(
                *("initdb", "-D", self._data, "-U", USER),
                *("-A", "scram-sha-256", f"--pwfile={password_file}"),
                *("-E", "UTF8", "--locale=C", "--no-sync", *self._creating),
            )
        finally:
            password_file.unlink()

    def _run(self, program: str, *arguments: str | Path, **environment: str) -> None:
        """Run a program of Postgres to its end; raises ServerError if it fails."""
        done = subprocess.run(
            [self._binaries / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=plain_environment(**environment),
            cwd=self._directory,
            user=self._account,
            group=group_of(self._account),
            extra_groups=[] if self._account else None,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerError(f"{program} failed:\n{done.stdout}")


class StandbyPostgres(PrivatePostgres):
    """A copy of the running *primary* that follows it, until it is promoted."""

    def __init__(self, binaries: Path, primary: PrivatePostgres) -> None:
        super().__init__(binaries)
        self._primary = primary
        self._password = primary._password

    def promote(self) -> None:
        """Let it become a primary; returns once it takes writes."""
        self._run("pg_ctl", "promote", "--wait", "-D", self._data)

    def _create_cluster(self) -> None:
        self._run(
            *("pg_basebackup", "-D", self._data, "--write-recovery-conf"),
            *("--checkpoint=fast", "--no-sync", "--wal-method=stream"),
            *("-h", "127.0.0.1", "-p", str(self._primary._port), "-U", USER),
            PGPASSWORD=self._password,
        )
