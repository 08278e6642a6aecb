"""
The Redis server of the tests, or Valkey.

Invariants:

- Every test has a database of its own, which is empty before it and after it.
- `call` does not depend on the product's client.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.support.servers import resp
from tests.support.servers.instance import Instance
from tests.support.servers.server import Server


class RedisServer(Server):
    """
    A server whose user in *url* may do everything.

    Args:
        url: `redis://user:password@host:port`; a database in it is left out.
    """

    def __init__(self, url: str, instance: Instance) -> None:
        super().__init__(instance)
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host, self._port = parts.hostname, parts.port
        self._lent: set[int] = set()

    def __str__(self) -> str:
        return f"Redis at {self._host}:{self._port}"

    def url(self, database: int = 0) -> str:
        """Return the URL of the *database* of this number."""
        return f"{self._origin}/{database}"

    async def call(self, *words: str | int, database: int = 0) -> resp.Reply:
        """Return the reply to the command *words*; raises `resp.ReplyError`."""
        return await resp.call(self.url(database), *words)

    async def setting(self, name: str) -> str:
        """Return the setting *name*."""
        found = await self.call("CONFIG", "GET", name)
        assert isinstance(found, list), f"{self} has no setting {name}"
        return str(found[1].decode())

    @asynccontextmanager
    async def configured(self, **settings: str) -> AsyncIterator[None]:
        """Change *settings* (with `_` for `-`) during the block."""
        names = {name: name.replace("_", "-") for name in settings}
        before = {name: await self.setting(names[name]) for name in settings}
        try:
            for name, value in settings.items():
                await self.call("CONFIG", "SET", names[name], value)
            yield
        finally:
            for name, value in before.items():
                await self.call("CONFIG", "SET", names[name], value)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[int]:
        """Lend the number of an empty database, which is emptied in the end."""
        await self.revive()
        number = await self._free_number()
        self._lent.add(number)
        try:
            yield number
        finally:
            await self.revive()
            await self.call("FLUSHDB", database=number)
            self._lent.discard(number)

    async def _free_number(self) -> int:
        """The number of an empty database; another run may use some of the server."""
        numbers = [
            n for n in range(1, int(await self.setting("databases"))) if n not in self._lent
        ]
        random.shuffle(numbers)
        for number in numbers:
            if await self.call("DBSIZE", database=number) == 0:
                return number
        raise AssertionError(f"{self} has no empty database left")

    async def _answers(self) -> bool:
        try:
            return await self.call("PING") == b"PONG"
        except (OSError, EOFError, resp.ReplyError):  # TimeoutError is an OSError
            return False
