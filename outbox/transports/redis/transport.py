"""
Redis Streams as a broker.

It keeps those promises of RabbitMQ that this project uses:

- A confirmed message stands in every queue bound to its key, as durable as the server makes its
  writes: on disk with `appendfsync always`; see docs/how-to/redis.md for other configurations.
- A message is leased to its subscription, which extends one lease for all its messages while it
  runs. When a process dies, its messages are delivered again after the lease has ended, and not
  before, however long a handler takes. So messages need no idle time of their own, by which
  `XAUTOCLAIM` could take one from a handler that still runs.
- Settling fails if the lease was lost, as with a lost connection; the message is delivered again.
- A subscription that ends counts as a failed delivery; a release does not (as in RabbitMQ 4.3).
- A retry is one script, which stores the copy and deletes the original.
- A queue with a single active consumer delivers only to its oldest live subscription.
- Priorities above the normal one are delivered first, those below it last; each of these three
  levels in the order of publishing.
- A settled message is deleted, so a stream has no length to limit: no `MAXLEN` can drop a message
  that is not settled.

Limits:

- All queues stand in the memory of one server; in a cluster, of one primary and its replicas.
- Retries and expired messages move only while a subscription to any queue of the server exists.
- Leases follow the clock of the server: if it jumps ahead by more than a lease, or a failover goes
  to a server whose clock is so far ahead, messages are delivered again.
- A handler that blocks the event loop for longer than a lease loses it.
- A failover to a replica may undo the last writes. Messages whose claims or acks it undoes are
  delivered again, and those that were just published are lost unless *replicas* have them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta

from redis.asyncio import Redis
from yarl import URL

from outbox.errors import BrokerUnavailable, ConfigurationError
from outbox.transports.base import ConnectionCounter, Outcome, QueueDepth
from outbox.transports.inspection import Act, Answer, BrokerFacts, Permission
from outbox.transports.observation import Observation
from outbox.transports.redis.addresses import open_client
from outbox.transports.redis.connect_errors import redis_errors
from outbox.transports.redis.inspection import inspect
from outbox.transports.redis.messages import Messages
from outbox.transports.redis.subscription import Intervals, RedisSubscription
from outbox.transports.topology import Binding, Topology
from outbox.wire.codec import WireMessage

LEASE = timedelta(seconds=10)
POLL = timedelta(milliseconds=100)


class RedisTransport:
    """
    The broker in the server at *urls*, which are those of MQ_BROKER_URL.

    Args:
        name: The server shows it for the connections.
        lease: How long after the end of a process its messages are delivered again.
        poll: Longest interval at which a subscription looks for retries and given-back messages;
            new messages wake it.
        connections: Counts the open connections.
        replicas: Number of replicas that must have a message before its publish is confirmed.

    """

    def __init__(
        self,
        urls: Sequence[URL],
        *,
        name: str,
        lease: timedelta = LEASE,
        poll: timedelta = POLL,
        connections: ConnectionCounter | None = None,
        replicas: int = 0,
    ) -> None:
        self._urls = urls
        self._name = name
        self._intervals = Intervals(lease, poll)
        self._connections = connections
        self._replicas = replicas

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator["RedisPublisher"]:
        async with self._messages(reply_within=None) as messages:
            yield RedisPublisher(messages)

    @asynccontextmanager
    async def subscribe(
        self, queue: str, *, prefetch: int, ordered: bool = False
    ) -> AsyncIterator["RedisSubscription"]:
        async with self._messages(reply_within=self._intervals.lease) as messages:
            subscription = RedisSubscription(
                messages, queue, prefetch=prefetch, ordered=ordered, intervals=self._intervals
            )
            try:
                await subscription.start()
                yield subscription
            finally:
                await subscription.close()

    async def declare(self, topology: Topology) -> None:
        async with self._messages(reply_within=self._intervals.lease) as messages:
            await messages.declare(topology)

    async def verify(self, topology: Topology) -> list[str]:
        async with self._messages(reply_within=self._intervals.lease) as messages:
            (await messages.declarations()).verify(topology)
        return []

    async def depth(self, queue: str) -> QueueDepth | None:
        async with self._messages(reply_within=self._intervals.lease) as messages:
            return await messages.depth(queue)

    async def inspect(self, acts: Sequence[Act]) -> BrokerFacts:
        async with self._client(reply_within=self._intervals.lease) as client:
            facts = await inspect(client, self._urls)
            # Rights are for commands and keys, and not for single exchanges and queues.
            if (redis := facts.redis) and (redis.refused_commands or redis.refused_keys):
                return replace(facts, answers=[Answer(act, Permission.REFUSED) for act in acts])
            declared = await Messages(client).declarations()
        return replace(facts, answers=declared.answers(acts))

    async def remove(self, _topology: Topology) -> list[str]:
        # Only partitions are removed, which need RabbitMQ.
        raise ConfigurationError("MQ_BROKER_URL: Redis keeps all that was declared")

    @asynccontextmanager
    async def observe(
        self, _bindings: Sequence[Binding], *, name: str, bodies: bool = False
    ) -> AsyncIterator[Observation]:
        raise ConfigurationError(f"MQ_BROKER_URL: Redis makes no copies for {name} ({bodies=})")
        yield

    @asynccontextmanager
    async def _messages(self, *, reply_within: timedelta | None) -> AsyncIterator[Messages]:
        async with self._client(reply_within=reply_within) as client:
            yield Messages(client, replicas=self._replicas)

    @asynccontextmanager
    async def _client(self, *, reply_within: timedelta | None) -> AsyncIterator[Redis]:
        client = open_client(
            self._urls,
            name=self._name,
            reply_within=reply_within,
            connections=self._connections,
        )
        try:
            yield client
        finally:
            with suppress(BrokerUnavailable), redis_errors():
                await client.aclose()


class RedisPublisher:
    """Publishes on its own connections."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    async def ready(self) -> None:
        await self._messages.check_writable()

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        try:
            async with asyncio.timeout(within.total_seconds()):
                return await self._messages.publish(messages)
        except TimeoutError:
            return [Outcome.UNKNOWN] * len(messages)
