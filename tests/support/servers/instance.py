"""
The program of a server: on this machine, in a container, or external.

Invariants:

- `launch` returns without waiting for the server to answer, and changes nothing if it runs.
- `close` leaves no process and no file.
- Ports and data survive `stop`, `kill` and the next `launch`.
"""

from typing import Protocol


class Instance(Protocol):
    @property
    def stoppable(self) -> bool:
        """Whether tests may stop it."""

    @property
    def running(self) -> bool:
        """Whether the program is alive; it may not answer yet."""

    @property
    def tail(self) -> str:
        """The last lines of its log."""

    @property
    def log(self) -> bytes:
        """The whole log, as far as it is known."""

    def launch(self) -> None:
        """Start the program."""

    async def stop(self) -> None:
        """Let the program end in good order."""

    async def kill(self) -> None:
        """Kill the program: it writes and sends no more data."""

    def close(self) -> None:
        """End the program for good, at once."""


class AdministeredInstance(Instance, Protocol):
    """An instance with programs to administer it."""

    async def administer(self, program: str, *arguments: str) -> None:
        """Run one of these programs to its end. Raises AdministrationError with its output."""


class AdministrationError(Exception):
    """A program that administers the server has failed."""


class NotOursError(Exception):
    """A server that the environment names is neither stopped nor administered by tests."""


class GivenInstance:
    """An external server: it ran before the tests and stays after them."""

    stoppable = False
    running = True
    tail = "(the log of a given server is not known to the tests)"
    log = b""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def launch(self) -> None:
        pass

    async def stop(self) -> None:
        raise NotOursError(f"the server named by {self._variable} is not stopped by tests")

    async def kill(self) -> None:
        await self.stop()

    async def administer(self, program: str, *_arguments: str) -> None:
        raise NotOursError(
            f"tests run no {program} on the server that is named by {self._variable}"
        )

    def close(self) -> None:
        pass
