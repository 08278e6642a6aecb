"""
RabbitMQ's management API, as far as tests need it.

Invariant: a request takes milliseconds, where `rabbitmqctl` starts a virtual machine each time.
Mind that the broker brings its figures up to date in intervals: of a quarter of a second for
depths and a second for connections on servers that the tests start, of 5 s by default.
Wait with `eventually`, and never conclude from a single request that nothing happened.
"""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, unquote, urlsplit

TIMEOUT_SECONDS = 15
# Totals are read where queues report them; the statistics that this leaves out are sampled later.
TOTALS = "disable_stats=true&enable_queue_totals=true"
# For the command line of Erlang: shorter intervals for reports, ticks of quorum queues, samples,
# and retries of dead letters that were unroutable.
QUICK_FIGURES = (
    "-rabbit collect_statistics_interval 250 quorum_tick_interval 250 "
    "dead_letter_worker_publisher_confirm_timeout 3000 "
    "-rabbitmq_management_agent sample_retention_policies "
    "[{global,[{605,1}]},{basic,[{605,1}]},{detailed,[{605,1}]}]"
)


@dataclass(frozen=True, slots=True)
class Depth:
    """The ready and the unacked messages of a queue."""

    ready: int
    unacked: int


class ManagementError(Exception):
    """The management API refused a request."""


class Management:
    """The API at *url*, which holds user and password: `http://user:password@host:15672`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._connection = HTTPSConnection if secure else HTTPConnection
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (15671 if secure else 15672)
        self._prefix = parts.path.rstrip("/")
        self.user = unquote(parts.username or "guest")
        word = f"{self.user}:{unquote(parts.password or 'guest')}"
        self._authorization = f"Basic {base64.b64encode(word.encode()).decode()}"

    async def answers(self) -> bool:
        """Whether the API is up."""
        try:
            return bool(await self.request("GET", "whoami"))
        except (OSError, HTTPException):
            return False

    async def create_vhost(self, name: str) -> None:
        """Create a virtual host in which our user may do everything."""
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        await self.request("PUT", "vhosts", name)
        await self.request("PUT", "permissions", name, self.user, body=everything)

    async def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with its queues; its connections are closed."""
        await self.request("DELETE", "vhosts", name)

    async def vhosts(self) -> list[str]:
        """Return the names of all virtual hosts."""
        return [vhost["name"] for vhost in await self.request("GET", "vhosts")]

    @asynccontextmanager
    async def lent_user(
        self, vhost: str, *, configure: str, read: str = ".*"
    ) -> AsyncIterator[tuple[str, str]]:
        """Lend name and password of a new user, which may write anything in *vhost*."""
        name, word = f"test-{secrets.token_hex(8)}", secrets.token_hex(8)
        await self.request("PUT", "users", name, body={"password": word, "tags": ""})
        try:
            allowed = {"configure": configure, "write": ".*", "read": read}
            await self.request("PUT", "permissions", vhost, name, body=allowed)
            yield name, word
        finally:
            await self.request("DELETE", "users", name)

    async def queues(self, vhost: str) -> dict[str, Depth]:
        """Return the depth of each queue; zero where the broker has not counted yet."""
        return {
            queue["name"]: Depth(
                ready=queue.get("messages_ready", 0),
                unacked=queue.get("messages_unacknowledged", 0),
            )
            for queue in await self.request("GET", "queues", vhost, query=TOTALS)
        }

    async def connections(self, vhost: str) -> list[str]:
        """Return the names of the connections to *vhost*."""
        return [
            connection["name"]
            for connection in await self.request("GET", "vhosts", vhost, "connections")
            if "name" in connection
        ]

    async def close_connection(self, name: str) -> None:
        """Make the broker close a connection; its client gets CONNECTION_FORCED."""
        await self.request("DELETE", "connections", name)

    async def close_connections(self, vhost: str) -> int:
        """Make the broker close all connections to *vhost*; return how many it closed."""
        names = await self.connections(vhost)
        for name in names:
            await self.close_connection(name)

        return len(names)

    async def request(
        self, method: str, *path: str, query: str = "", body: Mapping[str, Any] | None = None
    ) -> Any:
        """Send one request to `/api/` and the quoted parts of *path*; return the answer."""
        target = "/".join(quote(part, safe="") for part in path)
        return await asyncio.to_thread(self._exchange, method, f"{target}?{query}", body)

    def _exchange(self, method: str, target: str, body: Mapping[str, Any] | None) -> Any:
        connection = self._connection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        try:
            connection.request(
                method, f"{self._prefix}/api/{target}", json.dumps(body or {}), headers
            )
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()

        gone = method == "DELETE" and response.status == HTTPStatus.NOT_FOUND
        if method == "DELETE" and target.startswith("connections/"):
            # A connection that ends by itself meanwhile is an internal error to RabbitMQ 3.10.
            gone = gone or response.status == HTTPStatus.INTERNAL_SERVER_ERROR
        if response.status >= HTTPStatus.BAD_REQUEST and not gone:
            raise ManagementError(f"{method} {target}: {response.status} {answer.decode()}")
        return json.loads(answer) if answer and not gone else None
