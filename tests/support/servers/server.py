"""
The life of a test server, the same for each of them.

Invariant: after `start` and `restart` the server answers; a server that has ended while it was
awaited fails the test at once, with the end of its log.
"""

from abc import ABC, abstractmethod

from tests.support.eventually import eventually
from tests.support.servers.instance import Instance

START_SECONDS = 60.0


class ServerError(Exception):
    """The server ended instead of answering."""


class Server(ABC):
    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    @property
    def stoppable(self) -> bool:
        """Whether tests may stop it; false for a server that the environment names."""
        return self._instance.stoppable

    @property
    def running(self) -> bool:
        """Whether the program is alive."""
        return self._instance.running

    @property
    def log(self) -> bytes:
        """The whole log; empty for a server that the environment names."""
        return self._instance.log

    def launch(self) -> None:
        """Begin to start the server, and return at once."""
        self._instance.launch()

    async def start(self) -> None:
        """Start the server unless it runs, and return when it answers."""
        self.launch()
        await self.ready()

    async def revive(self) -> None:
        """Start the server if a fault test left it down."""
        if not self.running:
            await self.start()

    async def stop(self) -> None:
        """Shut the server down cleanly: it closes connections and writes its data."""
        await self._instance.stop()

    async def kill(self) -> None:
        """Kill the server; data that it has confirmed survives."""
        await self._instance.kill()

    async def restart(self) -> None:
        """Stop and start; ports, data and passwords stay."""
        await self.stop()
        await self.start()

    async def ready(self) -> None:
        """Return when the server answers."""
        try:
            await eventually(
                self._answers_or_fails, within=START_SECONDS, message=f"no answer from {self}"
            )
        except AssertionError as late:
            late.add_note(self._instance.tail)
            raise

    def close(self) -> None:
        """End the server for good and remove its data."""
        self._instance.close()

    async def _answers_or_fails(self) -> bool:
        if not self.running:
            raise ServerError(f"{self} ended; its log:\n{self._instance.tail}")
        return await self._answers()

    @abstractmethod
    async def _answers(self) -> bool:
        """Whether a client would be served."""
