"""
A channel with publisher confirms, and the provider that replaces it.

Invariants:

- A channel with publishes that were abandoned is never used again: their late confirms would be
  taken for those of the same messages when they are published again.
- A channel on which a publish was refused is replaced, with its connection. RabbitMQ 3.10 refuses
  all messages on a channel for a quorum queue that had no leader at the first publish. If the
  replacement is refused too, the next one is used longer: the queue may just be full.
- A connection that the broker blocked is kept until it is unblocked. The broker would not report
  the block to a new connection before it published, which would add one copy of each message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from outbox.errors import BrokerUnavailable
from outbox.transports.rabbitmq.confirms import Confirm, is_final, is_refused, of_each_kind
from outbox.transports.rabbitmq.connection import close, connection_errors, start_closing
from outbox.transports.rabbitmq.in_flight import InFlight, is_blocked
from outbox.transports.rabbitmq.publish_batch import incompatibility, publish_batch
from outbox.transports.rabbitmq.publish_gather import publish_gathered
from outbox.wire.codec import WireMessage

UNBLOCKED_SECONDS = 1.0
REFUSED_SECONDS = 5.0
"""Seconds that a connection is used although a publish was refused: a queue may be full."""
MOST_REFUSED_SECONDS = 300.0
"""The maximum of these seconds, after replacements that did not end the refusals."""
_MOST_DOUBLINGS = 10

Connect: TypeAlias = Callable[[], Awaitable[AbstractConnection]]
MethodName: TypeAlias = Literal["batch", "gather"]


class Method(Protocol):
    """A method to publish several messages on a channel."""

    async def __call__(
        self,
        channel: Any,
        messages: Sequence[WireMessage],
        *,
        in_flight: InFlight,
        deadline: float,
    ) -> list[Confirm]:
        """
        Publish *messages* mandatory, persistent and confirmed; return one confirm for each.

        Raises TimeoutError, without a publish, if *in_flight* has no room by *deadline*.
        """


_METHODS: dict[MethodName, Method] = {"batch": publish_batch, "gather": publish_gathered}


def kept_seconds(fruitless_replacements: int) -> float:
    """Return how many seconds to use a refused connection after *fruitless_replacements*."""
    doubled: float = REFUSED_SECONDS * 2 ** min(fruitless_replacements, _MOST_DOUBLINGS)
    return min(doubled, MOST_REFUSED_SECONDS)


class ConfirmChannel:
    """
    The only channel of *connection*, from its opening to its loss.

    *fruitless_replacements* is the number of previous channels, in a row, that did not end the
    refusals.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        method: MethodName,
        fruitless_replacements: int = 0,
    ) -> None:
        self.method = method
        self.fruitless_replacements = fruitless_replacements
        self._connection = connection
        # Messages are published on aiormq's channel; aio-pika's is held to keep it open.
        self._wrapper: AbstractChannel | None = None
        self._channel: Any = None
        self._in_flight = InFlight()
        self._abandoned = False
        self._refused = False
        self._refused_early = False
        self._opened = 0.0

    async def open(self) -> None:
        """
        Open the channel, and fall back to `gather` if aiormq is not compatible with batches.

        Raises BrokerUnavailable.
        """
        with connection_errors():
            self._wrapper = await self._connection.channel(
                publisher_confirms=True, on_return_raises=True
            )
            channel = await self._wrapper.get_underlay_channel()
        if self.method == "batch" and (missing := await incompatibility(channel)) is not None:
            structlog.get_logger(component="rabbitmq").warning(
                "batch_publishing_unavailable", missing=missing, method="gather"
            )
            self.method = "gather"
        self._channel = channel
        self._opened = self._now()

    async def close(self) -> None:
        await close(self._connection)

    def drop(self) -> None:
        """Start closing the connection, without waiting for it."""
        start_closing(self._connection)

    @property
    def lost(self) -> bool:
        return (
            self._channel is None or self._channel.is_closed or self._channel.connection.is_closed
        )

    @property
    def needs_replacement(self) -> bool:
        """Whether the next publish needs another channel."""
        unusable = self._abandoned or (self._refused and self._is_idle_and_old)
        return self.lost or (unusable and not self.is_blocked)

    @property
    def is_blocked(self) -> bool:
        """Whether the broker blocks the connection."""
        return is_blocked(self._channel.connection)

    @property
    def _is_idle_and_old(self) -> bool:
        return self._in_flight.empty and self._is_old

    @property
    def _is_old(self) -> bool:
        return self._now() - self._opened >= kept_seconds(self.fruitless_replacements)

    @property
    def next_fruitless_replacements(self) -> int:
        """The *fruitless_replacements* of the next channel, if this one is replaced."""
        return self.fruitless_replacements + 1 if self._refused_early else 0

    async def unblocked(self) -> None:
        """
        Return when the broker does not block the connection.

        aiormq stores publishes while the broker blocks it, and sends them later: each batch that
        is published again until then would add one copy.
        Raises BrokerUnavailable if the block lasts longer than UNBLOCKED_SECONDS.
        """
        with connection_errors("the broker blocks publishers"):
            async with asyncio.timeout(UNBLOCKED_SECONDS):
                await self._channel.connection.ready()

    async def publish(self, messages: Sequence[WireMessage], *, deadline: float) -> list[Confirm]:
        """Publish *messages*, and return one confirm for each; raises no error of the broker."""
        if self._now() >= deadline:
            return [TimeoutError()] * len(messages)
        if self.is_blocked:
            return [BrokerUnavailable("the broker blocks publishers")] * len(messages)
        publish = _METHODS[self.method]
        try:
            confirms = await publish(
                self._channel, messages, in_flight=self._in_flight, deadline=deadline
            )
        except TimeoutError as error:
            return [error] * len(messages)
        except asyncio.CancelledError:
            self._abandoned = True
            raise
        kinds = of_each_kind(confirms)
        self._abandoned = self._abandoned or not all(map(is_final, kinds))
        if any(map(is_refused, kinds)):
            self._refused = True
            self._refused_early = self._refused_early or not self._is_old
        return confirms

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class ChannelProvider:
    """Keeps one channel open. Only one task may use it at a time."""

    def __init__(self, connect: Connect, *, method: MethodName) -> None:
        self._connect = connect
        self._method = method
        self._current: ConfirmChannel | None = None
        self._fruitless_replacements = 0
        self._closed = False

    @property
    def usable(self) -> ConfirmChannel | None:
        """The open channel, or None if the next publish needs another one."""
        current = self._current
        return None if current is None or current.needs_replacement else current

    def another(self) -> "ChannelProvider":
        """Return a provider with its own connection."""
        return ChannelProvider(self._connect, method=self._method)

    async def channel(self) -> ConfirmChannel:
        """
        Return the open channel, or a new one.

        Raises BrokerUnavailable, also if the provider was closed meanwhile.
        """
        if (usable := self.usable) is not None:
            return usable
        if self._current is not None:
            self._fruitless_replacements = self._current.next_fruitless_replacements
        await self._close_current()
        # Stored before it is open, so that `close` also finds a channel that fails to open.
        opened = self._current = ConfirmChannel(
            await self._connect(),
            method=self._method,
            fruitless_replacements=self._fruitless_replacements,
        )
        if not self._closed:
            await opened.open()
        if self._closed:
            await self._close_current()
            raise BrokerUnavailable("the publisher was closed")
        self._method = opened.method
        return opened

    def release(self) -> ConfirmChannel | None:
        """Return the channel, if there is one, and forget it."""
        channel, self._current = self._current, None
        return channel

    def adopt(self, channel: ConfirmChannel | None) -> None:
        """Keep *channel*, or drop it if another one is open."""
        kept, dropped = channel, self._current
        if self._current is not None and not self._current.lost:
            kept, dropped = self._current, channel
        if dropped is not None:
            dropped.drop()
        self._current = kept

    async def close(self) -> None:
        """Close the channel for good; safe to call at any time, and while one is being opened."""
        self._closed = True
        await self._close_current()

    async def _close_current(self) -> None:
        if (channel := self.release()) is not None:
            await channel.close()
