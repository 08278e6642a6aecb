"""
Erlang's port mapper (epmd), which nodes of RabbitMQ find each other with.

Invariants:

- It is private and listens on the loopback only, so that no other node is seen or disturbed.
- It runs as long as some node uses it.
"""

from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import ChildProcess
from tests.support.servers.isolation import plain_environment
from tests.support.servers.ports import free_port


class PortMapper:
    """One port mapper; its log is in *directory*."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._users: set[str] = set()
        self._process = ChildProcess(
            ["epmd", "-port", str(self.port), "-address", "127.0.0.1"],
            log=directory / "epmd.log",
            env=plain_environment(HOME=str(directory), **self.environment),
            inherit=False,
            cwd=directory,
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables by which a node finds it."""
        return {"ERL_EPMD_PORT": str(self.port), "ERL_EPMD_ADDRESS": "127.0.0.1"}

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, node: str) -> None:
        """Run, at least for *node*."""
        self._users.add(node)
        if not self._process.running:
            self._process.start()

    def release(self, node: str) -> None:
        """*node* has ended; without any it ends too."""
        self._users.discard(node)
        if not self._users:
            self._process.close()
