"""
Effects of the proxy of fault tests on connections, seen from both ends.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pamqp.frame
import pytest
from pamqp.base import Frame
from pamqp.commands import Basic, Channel

from tests.support.breakpoints import BreakpointProxy
from tests.support.eventually import eventually
from tests.support.network_conditions import DROP_ALL, NetworkConditions, Side
from tests.support.proxy import Proxy
from tests.support.wire_protocols import ACK, PUBLISH


class Echo:
    """A server that sends back every byte, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self.ends: list[BaseException | None] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end: BaseException | None = None
        try:
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
        except ConnectionError as error:
            end = error
        self.ends.append(end)
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, str]]:
    echo = Echo()
    server = await asyncio.start_server(echo.answer, "127.0.0.1", 0)
    yield echo, f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


class Client:
    """One connection through a proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, proxy: Proxy) -> "Client":
        port = int(proxy.url.rpartition(":")[2])
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        assert await client.asks(b"AMQP\0\0\x09\x01")
        return client

    async def asks(self, data: bytes) -> bool:
        """Whether *data* comes back."""
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readexactly(len(data)), 10) == data

    async def is_reset(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), 10) is None
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.writer.close()


def marshalled(frame: Frame) -> bytes:
    return pamqp.frame.marshal(frame, 1)


OPEN = marshalled(Channel.Open())
PUBLISHED = marshalled(Basic.Publish(exchange="x", routing_key="k"))
CONFIRMED = marshalled(Basic.Ack(delivery_tag=1))


async def test_a_reset_ends_both_sides_by_rst_and_new_connections_are_made(echo):
    server, url = echo
    async with Proxy(url) as proxy:
        one, other = await Client.of(proxy), await Client.of(proxy)

        assert proxy.reset() == 2

        assert await one.is_reset()
        assert await other.is_reset()
        await eventually(lambda: len(server.ends) == 2)
        assert all(isinstance(end, ConnectionResetError) for end in server.ends)
        new = await Client.of(proxy)
        assert proxy.links == 1
        new.close()


@pytest.mark.parametrize("silent", Side)
async def test_bytes_of_a_silent_side_are_lost_and_its_connection_is_reset_after_it(echo, silent):
    server, url = echo
    async with Proxy(url) as proxy:
        client, idle = await Client.of(proxy), await Client.of(proxy)
        async with proxy.under(NetworkConditions(silent=frozenset({silent}))):
            before = len(server.heard)
            client.writer.write(OPEN)
            if silent is Side.SERVER:
                await eventually(lambda: server.heard[before:] == OPEN)
            await eventually(lambda: proxy.fragmented == 1)

        assert await client.is_reset()
        assert server.heard[before:] == (OPEN if silent is Side.SERVER else b"")
        assert await idle.asks(OPEN)
        idle.close()


async def test_while_there_is_silence_a_peer_does_not_hear_that_the_other_has_gone(echo):
    server, url = echo
    async with Proxy(url) as proxy:
        client = await Client.of(proxy)
        async with proxy.under(DROP_ALL):
            client.writer.write(OPEN)
            client.close()
            await eventually(lambda: proxy.fragmented == 1)
            assert server.ends == []

        await eventually(lambda: len(server.ends) == 1)


async def test_a_slow_link_takes_its_time_and_loses_no_byte(echo):
    _server, url = echo
    weather = NetworkConditions(
        delay=timedelta(milliseconds=50), jitter=timedelta(milliseconds=50)
    )
    async with Proxy(url) as proxy:
        client = await Client.of(proxy)
        async with proxy.under(weather):
            began = time.monotonic()
            assert await client.asks(OPEN)
            assert time.monotonic() - began >= 0.1
        assert await client.asks(OPEN)
        client.close()


@pytest.mark.parametrize(
    "weather", [NetworkConditions(piece_bytes=1), NetworkConditions(bytes_per_second=20_000)]
)
async def test_torn_and_narrow_links_lose_no_byte(echo, weather):
    _server, url = echo
    async with BreakpointProxy(url) as proxy:
        client = await Client.of(proxy)
        async with proxy.under(weather):
            for _ in range(20):
                assert await client.asks(PUBLISHED)
        client.close()


async def test_messages_with_a_sign_are_lost_and_the_others_are_not(echo):
    server, url = echo
    async with BreakpointProxy(url) as proxy:
        client, idle = await Client.of(proxy), await Client.of(proxy)
        with proxy.dropping(Side.CLIENT, PUBLISH):
            client.writer.write(PUBLISHED + OPEN)
            assert await client.reader.readexactly(len(OPEN)) == OPEN
            assert PUBLISHED not in server.heard

        assert await client.is_reset()
        assert await idle.asks(PUBLISHED)
        idle.close()


async def test_a_tap_sees_every_message_that_passes_and_no_other(echo):
    _server, url = echo
    received: list[tuple[Side, bytes]] = []
    async with BreakpointProxy(url) as proxy:
        client = await Client.of(proxy)
        proxy.tap(lambda _link, side, message: received.append((side, message)))
        with proxy.dropping(Side.SERVER, ACK):
            client.writer.write(CONFIRMED + OPEN)
            assert await client.reader.readexactly(len(OPEN)) == OPEN
        client.close()

    assert received == [
        (Side.CLIENT, CONFIRMED),
        (Side.CLIENT, OPEN),
        (Side.SERVER, OPEN),
    ]


async def test_a_removed_trap_delays_no_message(echo):
    _server, url = echo
    async with BreakpointProxy(url) as proxy:
        client = await Client.of(proxy)
        trap = proxy.before(PUBLISH)
        proxy.forget(trap)
        assert await client.asks(PUBLISHED)
        assert not trap.is_hit
        client.close()


async def test_a_server_that_is_unreachable_ends_the_connection_at_once():
    async with Proxy("amqp://127.0.0.1:1") as proxy:
        port = int(proxy.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = Client(reader, writer)
        assert await client.is_reset() or client.reader.at_eof()
        client.close()
