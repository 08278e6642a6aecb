"""
A TCP proxy in front of a server, with which a test injects faults of the network.
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
    """One connection through the proxy: a reader and a writer for each side."""

    readers: dict[Side, asyncio.StreamReader]
    writers: dict[Side, asyncio.StreamWriter]

    def deliver(self, side: Side, data: bytes) -> None:
        """Forward *data* to *side*."""
        self.writers[side].write(data)

    def abort(self) -> None:
        for writer in self.writers.values():
            writer.transport.abort()

    def reset(self) -> None:
        """Reset it on both sides (RST), like a host that does not know the connection."""
        for writer in self.writers.values():
            raw = writer.get_extra_info("socket")
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.abort()


class Proxy:
    """
    Forwards connections to the server of *url*.

    `url` is the address of the proxy, with the user, password and path of the server's.
    """

    def __init__(self, url: str) -> None:
        self._target = URL(url)
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._fragmented: set[Link] = set()
        self._port = 0
        self._conditions = UNIMPAIRED
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
    def fragmented(self) -> int:
        """How many open connections have lost data."""
        return len(self._fragmented)

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Accept connections again, on the same port; does nothing if the proxy accepts them."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and close the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.abort()

    def reset(self) -> int:
        """Reset all connections and accept new ones; returns how many were open."""
        return self._reset(self._links)

    async def drop_all(self) -> None:
        """Keep connections open and drop all data, like a silent peer."""
        self._apply(DROP_ALL)

    async def resume(self) -> None:
        """Forward data again from now on."""
        self._apply(UNIMPAIRED)

    @asynccontextmanager
    async def under(self, conditions: NetworkConditions) -> AsyncIterator[None]:
        """
        Apply *conditions* during the block.

        Connections that have lost data are reset at its end: their peers do not know of the loss.
        """
        self._apply(conditions)
        try:
            yield
        finally:
            self._apply(UNIMPAIRED)
            self.reset_fragmented()

    def reset_fragmented(self) -> None:
        """Reset the connections that have lost data."""
        self._reset(self._fragmented)

    def _apply(self, conditions: NetworkConditions) -> None:
        self._conditions = conditions
        if conditions.silent:
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
        """The bytes to forward, after *side* has sent *chunk*."""
        del link, side
        return chunk

    def _ended(self, link: Link) -> None:
        """Forget *link*, which has ended."""
        self._links.discard(link)
        self._fragmented.discard(link)

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
            # The proxy was cut while this connection was being opened.
            link.abort()
            return
        self._links.add(link)
        try:
            await self._over(*(asyncio.ensure_future(self._copy(link, side)) for side in Side))
        finally:
            self._ended(link)
            link.abort()

    async def _over(self, *copies: "asyncio.Task[Side]") -> None:
        """Return when one side has closed; a silent side does not close the other."""
        done, left = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        if {copy.result() for copy in done} <= self._conditions.silent:
            audible = asyncio.ensure_future(self._audible.wait())
            await asyncio.wait({audible, *left}, return_when=asyncio.FIRST_COMPLETED)
            audible.cancel()

    async def _copy(self, link: Link, side: Side) -> Side:
        """Forward the data of *side*, and return *side* once it has closed."""
        with suppress(OSError):
            while chunk := await link.readers[side].read(_CHUNK):
                if side in self._conditions.silent:
                    self._fragmented.add(link)
                    continue
                for piece in self._conditions.pieces(self._heard(link, side, chunk)):
                    if wait := self._conditions.pause(piece, jitter=random.random()):
                        await asyncio.sleep(wait)
                    link.deliver(side.other, piece)
                    await link.writers[side.other].drain()
        return side
