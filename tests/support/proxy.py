"""
A server that can go away: a TCP proxy in front of a real one, for one test.
"""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

from yarl import URL

from tests.support.network_conditions import DROP_ALL, UNIMPAIRED, NetworkConditions, Side

_CHUNK = 65_536
_LINGER_NOT = struct.pack("ii", 1, 0)


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

    def reset(self) -> None:
        """End it for both sides as a machine does that knows of no such connection: by RST."""
        for writer in self.writers.values():
            raw = writer.get_extra_info("socket")
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.abort()


class Proxy:
    """
    Forwards connections to the server of *url* until it is told not to.

    `url` is the same address, as seen through the proxy.
    """

    def __init__(self, url: str) -> None:
        self._target = URL(url)
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._torn: set[Link] = set()
        self._port = 0
        self._weather = UNIMPAIRED
        self._audible = asyncio.Event()
        self._audible.set()

    @property
    def url(self) -> str:
        return str(self._target.with_host("127.0.0.1").with_port(self._port))

    @property
    def links(self) -> int:
        """How many connections are open."""
        return len(self._links)

    @property
    def torn(self) -> int:
        """Over how many open connections something got lost."""
        return len(self._torn)

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Accept connections, on the same port as ever; does nothing if it accepts them."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and drop those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.abort()

    def reset(self) -> int:
        """End all connections by RST, and accept new ones; returns how many there were."""
        return self._reset(self._links)

    async def swallow(self) -> None:
        """Keep connections open, and pass nothing on: the peer has fallen silent."""
        self._turn(DROP_ALL)

    async def speak(self) -> None:
        """Pass on again what comes in from now on."""
        self._turn(UNIMPAIRED)

    @asynccontextmanager
    async def under(self, weather: NetworkConditions) -> AsyncIterator[None]:
        """
        Have this *weather* for the block.

        Connections from which something is missing then are reset: their peers knew nothing of it.
        """
        self._turn(weather)
        try:
            yield
        finally:
            self._turn(UNIMPAIRED)
            self.reset_torn()

    def reset_torn(self) -> None:
        """End connections over which something got lost."""
        self._reset(self._torn)

    def _turn(self, weather: NetworkConditions) -> None:
        self._weather = weather
        if weather.silent:
            self._audible.clear()
        else:
            self._audible.set()

    @staticmethod
    def _reset(links: Iterable[Link]) -> int:
        gone = list(links)
        for link in gone:
            link.reset()
        return len(gone)

    def _heard(self, link: Link, side: Side, chunk: bytes) -> bytes:
        """What is to be passed on, now that *side* has said *chunk*."""
        del link, side
        return chunk

    def _ended(self, link: Link) -> None:
        """Forget *link*, which is over."""
        self._links.discard(link)
        self._torn.discard(link)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(
                self._target.host, self._target.port
            )
        except OSError:
            writer.transport.abort()
            return
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
            self._ended(link)
            link.abort()

    async def _over(self, *copies: "asyncio.Task[Side]") -> None:
        """Return when one end has gone; while it is silent the other does not hear of it."""
        done, left = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        if {copy.result() for copy in done} <= self._weather.silent:
            audible = asyncio.ensure_future(self._audible.wait())
            await asyncio.wait({audible, *left}, return_when=asyncio.FIRST_COMPLETED)
            audible.cancel()

    async def _copy(self, link: Link, side: Side) -> Side:
        """Pass on what *side* says, and return it when it has gone."""
        with suppress(OSError):
            while chunk := await link.readers[side].read(_CHUNK):
                if side in self._weather.silent:
                    self._torn.add(link)
                    continue
                for piece in self._weather.pieces(self._heard(link, side, chunk)):
                    if wait := self._weather.pause(piece, jitter=random.random()):
                        await asyncio.sleep(wait)
                    link.tell(side.other, piece)
                    await link.writers[side.other].drain()
        return side
