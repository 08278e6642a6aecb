"""
Run scripts in the server, and wait: for entries, and for replicas.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from outbox.errors import BrokerUnavailable
from outbox.transports.redis import scripts
from outbox.transports.redis.connect_errors import redis_errors
from outbox.transports.redis.entries import Word
from outbox.transports.redis.script_functions import VERSION_KEY

WRITABLE_WITHIN = timedelta(seconds=10)
"""The longest time for `check_writable`: a machine that has stopped closes no connection."""
_REPLICA_WITHIN = timedelta(seconds=1)


class ScriptRunner:
    """
    Runs scripts in the server that *client* connects to, which has that many *replicas* or more.

    Every method raises BrokerUnavailable when the server is unavailable or refuses the work.
    """

    def __init__(self, client: Redis, *, replicas: int) -> None:
        self._client = client
        self._replicas = replicas
        self._scripts: dict[str, Any] = {}

    async def run(self, script: str, *arguments: Word, connection: Redis | None = None) -> Any:
        """Return the answer of *script*; on *connection*, if one is given."""
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        with redis_errors():
            return await self._scripts[script](
                keys=[VERSION_KEY], args=arguments, client=connection
            )

    async def is_done(self, script: str, *arguments: Word) -> bool:
        """Run *script*, and return whether its answer is DONE."""
        return bool(await self.run(script, *arguments) == scripts.DONE)

    async def confirmed(self, script: str, *arguments: Word) -> Any:
        """Run *script*, and return its answer when the replicas have what it wrote."""
        if not self._replicas:
            return await self.run(script, *arguments)
        # The server counts the replicas that have what this connection wrote.
        with redis_errors():
            async with self._client.client() as connection:
                answer = await self.run(script, *arguments, connection=connection)
                reached = await connection.wait(self._replicas, 0)
        if reached < self._replicas:
            raise BrokerUnavailable("MQ_REDIS_REPLICAS: fewer replicas have the message")
        return answer

    async def check_writable(self) -> None:
        """
        Do nothing, in a way that a replica or a server without memory or disk refuses.

        Raises BrokerUnavailable if the server has too few replicas, too, and if it does not answer
        for WRITABLE_WITHIN.
        """
        with redis_errors():
            async with asyncio.timeout(WRITABLE_WITHIN.total_seconds()):
                reached = await self._reached()
        if reached < self._replicas:
            raise BrokerUnavailable("MQ_REDIS_REPLICAS: the server has fewer replicas")

    async def wait(self, last_ids: Mapping[str, bytes], *, longest: timedelta) -> None:
        """Return when a stream has an entry behind its id, at the latest after *longest*."""
        streams: dict[Any, Any] = {**last_ids}
        with redis_errors():
            await self._client.xread(streams, count=1, block=milliseconds(longest))

    async def _reached(self) -> int:
        """Write nothing, and return how many replicas follow; 0 if none is needed."""
        await self._client.setrange(VERSION_KEY + ":probe", 0, "")
        if not self._replicas:
            return 0
        return int(await self._client.wait(self._replicas, milliseconds(_REPLICA_WITHIN)))


def milliseconds(time: timedelta) -> int:
    """Return *time* as the server takes it."""
    return time // timedelta(milliseconds=1)
