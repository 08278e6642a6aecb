"""
A server that can go away: a TCP proxy in front of a real one, for one test.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Self

from yarl import URL

_CHUNK = 65_536


class Side(Enum):
    """Who says something."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> "Side":
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True, eq=False, slots=True)
class Link:
    """One connection through the proxy, in its two halves; *readers* hear what each side says."""

    readers: dict[Side, asyncio.StreamReader]
    writers: dict[Side, asyncio.StreamWriter]

    def tell(self, side: Side, data: bytes) -> None:
        """Pass on to *side* what the other one has said."""
        self.writers[side].write(data)

    def abort(self) -> None:
        for writer in self.writers.values():
            writer.transport.abort()


class Proxy:
    """
    Forwards connections to the server of *url* until it is told not to.

    `url` is the same address, as seen through the proxy.
    """

    def __init__(self, url: str) -> None:
        self._target = URL(url)
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._port = 0
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def url(self) -> str:
        return str(self._target.with_host("127.0.0.1").with_port(self._port))

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Accept connections, on the same port as ever."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and drop those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.abort()

    async def swallow(self) -> None:
        """Keep connections open, and pass nothing on: the peer has fallen silent."""
        self._flowing.clear()

    async def speak(self) -> None:
        """Pass on again what comes in from now on."""
        self._flowing.set()

    def _pass_on(self, link: Link, side: Side, chunk: bytes) -> None:
        """Do with *chunk*, which *side* has said, what is to be done with it."""
        link.tell(side.other, chunk)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection(
                self._target.host, self._target.port
            )
            link = Link(
                {Side.CLIENT: reader, Side.SERVER: there_reader},
                {Side.CLIENT: writer, Side.SERVER: there_writer},
            )
            if self._server is None:
                # Cut while it was being made, when there was nothing to drop yet.
                link.abort()
                return
            self._links.add(link)
            try:
                await self._over(*(asyncio.ensure_future(self._copy(link, side)) for side in Side))
            finally:
                self._links.discard(link)
                link.abort()

    async def _over(self, *copies: "asyncio.Task[None]") -> None:
        """Return when one end has gone; while all is swallowed the other does not hear of it."""
        _, left = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        flowing = asyncio.ensure_future(self._flowing.wait())
        await asyncio.wait({flowing, *left}, return_when=asyncio.FIRST_COMPLETED)
        flowing.cancel()

    async def _copy(self, link: Link, side: Side) -> None:
        with suppress(OSError):
            while chunk := await link.readers[side].read(_CHUNK):
                if self._flowing.is_set():
                    self._pass_on(link, side, chunk)
                    await link.writers[side.other].drain()
