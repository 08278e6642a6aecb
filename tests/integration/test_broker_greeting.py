"""
Brokers that hang up before a connection is open: one that is about to end does so, and a proxy in
front of an unreachable one.
"""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pamqp.frame
import pytest
from pamqp.base import Frame
from pamqp.commands import Connection
from yarl import URL

from outbox.errors import BrokerUnavailable
from outbox.runtime.service import _fastest_loop
from outbox.transports.base import Transport
from outbox.transports.rabbitmq.transport import RabbitMQTransport

START = Connection.Start(
    server_properties={"product": "test"}, mechanisms="PLAIN", locales="en_US"
)
TUNE = Connection.Tune(channel_max=10, frame_max=131_072, heartbeat=5)
TIMES = 20


def marshalled(frame: Frame) -> bytes:
    return pamqp.frame.marshal(frame, 0)


def a_transport(port: int) -> Transport:
    return RabbitMQTransport([URL(f"amqp://127.0.0.1:{port}/")], heartbeat_seconds=5, name="test")


@asynccontextmanager
async def a_broker(*words: bytes) -> AsyncIterator[Transport]:
    """One that answers with *words*, one after another, and hangs up with the last of them."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for word in words:
            await reader.read(65_536)
            writer.write(word)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        yield a_transport(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def publishes(transport: Transport) -> None:
    async with transport.publisher() as publisher:
        await publisher.ready()


async def consumes(transport: Transport) -> None:
    async with transport.subscribe("work", prefetch=1):
        pass


async def looks(transport: Transport) -> None:
    await transport.depth("work")


Use = Callable[[Transport], Awaitable[None]]
uses = pytest.mark.parametrize("use", [publishes, consumes, looks])


@uses
@pytest.mark.parametrize(
    "words",
    [
        [marshalled(START)[:5]],
        [marshalled(START)],
        [marshalled(START), marshalled(TUNE)[:9]],
        [marshalled(START), marshalled(TUNE)],
    ],
    ids=["breaks_off_start", "starts", "breaks_off_tune", "tunes"],
)
async def test_a_broker_that_hangs_up_in_the_middle_of_its_greeting_is_unavailable(
    words: list[bytes], use: Use
):
    async with a_broker(*words) as transport:
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(use(transport), 10)


@pytest.fixture
def hangs_up() -> Iterator[int]:
    """The port of a server that hangs up at once, faster than a client can say anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@uses
def test_a_broker_that_hangs_up_before_its_first_byte_is_unavailable(hangs_up: int, use: Use):
    """With the event loop of the product, which reports an end of stream before the first read."""

    async def is_unavailable() -> None:
        for _ in range(TIMES):
            with pytest.raises(BrokerUnavailable):
                await use(a_transport(hangs_up))

    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        runner.run(is_unavailable())
