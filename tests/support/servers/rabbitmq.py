"""
The RabbitMQ server of the tests.

Invariants:

- Every test has a virtual host of its own; the names are chance, so runs may share a server.
- `http` uses the management API, and so does not depend on the product's client.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit

from tests.support.eventually import eventually
from tests.support.servers.instance import AdministeredInstance
from tests.support.servers.management import Management
from tests.support.servers.server import Server

HELLO = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"
WATERMARK = "0.9"
USUAL_PATIENCE = {"consumer_timeout": 1_800_000, "channel_tick_interval": 60_000}
DISK_FREE_LIMIT = "1MB"


class RabbitmqServer(Server):
    """
    A broker of which the tests are administrator.

    Args:
        url: `amqp://user:password@host:port`; a virtual host in it is left out.
        management_url: the same for the management API, `http://user:password@host:port`.
        metrics_port: the port of the plugin rabbitmq_prometheus on this machine, if it is known.
    """

    _instance: AdministeredInstance

    def __init__(
        self,
        url: str,
        management_url: str,
        instance: AdministeredInstance,
        *,
        metrics_port: int | None = None,
    ) -> None:
        super().__init__(instance)
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
        self.management_url = management_url
        self.metrics_port = metrics_port
        self.http = Management(management_url)

    def __str__(self) -> str:
        return f"RabbitMQ at {self._host}:{self._port}"

    def url(self, vhost: str) -> str:
        """Return the URL of *vhost*."""
        return f"{self._origin}/{quote(vhost, safe='')}"

    @asynccontextmanager
    async def vhost(self) -> AsyncIterator[str]:
        """Lend the name of a new virtual host, which is deleted in the end."""
        await self.revive()
        name = await self.create_vhost()
        try:
            yield name
        finally:
            await self.revive()
            await self.http.delete_vhost(name)

    async def create_vhost(self) -> str:
        """Create a virtual host and return its name."""
        name = f"test-{secrets.token_hex(8)}"
        await self.http.create_vhost(name)

        return name

    @asynccontextmanager
    async def memory_alarm(self) -> AsyncIterator[None]:
        """
        Raise the memory alarm: the broker blocks all publishers.

        Raises `NotOursError` for a server that the environment names.
        """
        async with self._alarm("mem_alarm", "set_vm_memory_high_watermark", "0", WATERMARK):
            yield

    @asynccontextmanager
    async def disk_alarm(self) -> AsyncIterator[None]:
        """Raise the disk alarm, with the same effect."""
        async with self._alarm(
            "disk_free_alarm", "set_disk_free_limit", "1000000GB", DISK_FREE_LIMIT
        ):
            yield

    @asynccontextmanager
    async def _alarm(self, alarm: str, command: str, bad: str, good: str) -> AsyncIterator[None]:
        try:
            await self._instance.administer("rabbitmqctl", command, bad)
            await eventually(lambda: self._rings(alarm), message=f"no {alarm}")
            yield
        finally:
            await self._instance.administer("rabbitmqctl", command, good)
            await eventually(lambda: self._is_calm(alarm), message=f"{alarm} did not end")

    @asynccontextmanager
    async def impatient(self, *, milliseconds: int) -> AsyncIterator[None]:
        """
        Make the broker close channels that do not settle a delivery within *milliseconds*.

        This applies to channels that are opened during the block. Raises `NotOursError` likewise.
        """
        try:
            await self._configure(consumer_timeout=milliseconds, channel_tick_interval=1_000)
            yield
        finally:
            await self._configure(**USUAL_PATIENCE)

    async def _configure(self, **settings: int) -> None:
        changes = "".join(
            f"application:set_env(rabbit, {name}, {value})," for name, value in settings.items()
        )
        await self.evaluate(f"{changes} ok.")

    async def evaluate(self, expression: str) -> None:
        """
        Evaluate *expression* of Erlang in the broker.

        Raises `NotOursError` likewise, and AdministrationError if it fails.
        """
        await self._instance.administer("rabbitmqctl", "eval", expression)

    async def _rings(self, alarm: str) -> bool:
        return any(node.get(alarm) for node in await self.http.request("GET", "nodes"))

    async def _is_calm(self, alarm: str) -> bool:
        return not await self._rings(alarm)

    async def _answers(self) -> bool:
        return await self._greets() and await self.http.answers()

    async def _greets(self) -> bool:
        """Whether the broker replies to the protocol header; accepting is not enough."""
        if self._origin.startswith("amqps"):
            return True  # an external server is up; `_answers` asks its management API as well
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            return False
        try:
            async with asyncio.timeout(2):
                writer.write(HELLO)
                return await reader.read(1) == METHOD_FRAME
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
