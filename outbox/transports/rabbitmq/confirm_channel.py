"""
A channel that is published on, and who opens the next one when it is lost.

Invariants:

- A channel with publishes that nobody waits for any more is never published on again: its late
  answers would be taken for those to the same messages published anew.
- A channel on which something was refused is replaced, and its connection with it: of a quorum
  queue that had no leader when it was first published to, RabbitMQ 3.10 refuses everything on that
  channel ever after. What is refused anew is replaced ever later: the queue may just be full.
- A connection that the broker has blocked is kept until it is not. A new one would not be told
  until it has published, which would be one more copy of each message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from outbox.errors import BrokerUnavailable
from outbox.transports.rabbitmq.confirms import Confirm, answered, refused
from outbox.transports.rabbitmq.connection import begin_to_close, close, connection_errors
from outbox.transports.rabbitmq.in_flight import InFlight, is_blocked
from outbox.transports.rabbitmq.publish_batch import incompatibility, publish_batch
from outbox.transports.rabbitmq.publish_gather import publish_gathered
from outbox.wire.codec import WireMessage

UNBLOCKED_SECONDS = 1.0
REFUSED_SECONDS = 5.0
"""How long a connection is used though something was refused on it: a queue may be full."""
MOST_REFUSED_SECONDS = 300.0
"""The same, when those before it were replaced for that and it did not help."""
_MOST_DOUBLINGS = 10

Connect: TypeAlias = Callable[[], Awaitable[AbstractConnection]]
MethodName: TypeAlias = Literal["batch", "gather"]


class Method(Protocol):
    """A way to publish several messages on a channel."""

    async def __call__(
        self,
        channel: Any,
        messages: Sequence[WireMessage],
        *,
        in_flight: InFlight,
        deadline: float,
    ) -> list[Confirm]:
        """
        Publish *messages*, each mandatory, persistent and confirmed; one answer for each.

        Raises TimeoutError if *in_flight* has no room by *deadline*, when nothing was sent.
        """


_METHODS: dict[MethodName, Method] = {"batch": publish_batch, "gather": publish_gathered}


def kept_seconds(fruitless_replacements: int) -> float:
    """How long to use a connection that is refused, after so many *fruitless_replacements*."""
    doubled: float = REFUSED_SECONDS * 2 ** min(fruitless_replacements, _MOST_DOUBLINGS)
    return min(doubled, MOST_REFUSED_SECONDS)


class ConfirmChannel:
    """
    One channel, alone on *connection*, from its opening to its loss.

    *fruitless_replacements* is how many channels before it, in a row, did not end the refusals.
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
        # aio-pika's channel is held only to keep it, and published on is aiormq's beneath it.
        self._wrapper: AbstractChannel | None = None
        self._channel: Any = None
        self._in_flight = InFlight()
        self._spent = False
        self._refused = False
        self._refused_early = False
        self._opened = 0.0

    async def open(self) -> None:
        """
        Open the channel, and fall back to `gather` if it is not fit for batches.

        Raises BrokerUnavailable.
        """
        with connection_errors():
            self._wrapper = await self._connection.channel(
                publisher_confirms=True, on_return_raises=True
            )
            channel = await self._wrapper.get_underlay_channel()
        if self.method == "batch" and (flaw := await incompatibility(channel)) is not None:
            structlog.get_logger(component="rabbitmq").warning(
                "batch_publishing_unavailable", missing=flaw, method="gather"
            )
            self.method = "gather"
        self._channel = channel
        self._opened = self._now()

    async def close(self) -> None:
        await close(self._connection)

    def drop(self) -> None:
        """Close it without waiting for that."""
        begin_to_close(self._connection)

    @property
    def lost(self) -> bool:
        return (
            self._channel is None or self._channel.is_closed or self._channel.connection.is_closed
        )

    async def needs_replacement(self) -> bool:
        """Whether the next publish needs another one."""
        spent = self._spent or (self._refused and self._has_rested)
        return self.lost or (spent and not await is_blocked(self._channel.connection))

    @property
    def _has_rested(self) -> bool:
        return self._in_flight.empty and self._is_old

    @property
    def _is_old(self) -> bool:
        return self._now() - self._opened >= kept_seconds(self.fruitless_replacements)

    @property
    def in_vain_so_far(self) -> int:
        """What *fruitless_replacements* is for the next link, if this one is replaced."""
        return self.fruitless_replacements + 1 if self._refused_early else 0

    async def unblocked(self) -> None:
        """
        Return once the broker reads what is published.

        aiormq keeps what is published while it does not, and sends it later: of each batch that
        is published again by then, there would be one copy more.
        Raises BrokerUnavailable if it goes on.
        """
        with connection_errors("the broker blocks publishers"):
            async with asyncio.timeout(UNBLOCKED_SECONDS):
                await self._channel.connection.ready()

    async def publish(self, messages: Sequence[WireMessage], *, deadline: float) -> list[Confirm]:
        """One answer for each of *messages*; never raises for what the broker does."""
        if self._now() >= deadline:
            return [TimeoutError()] * len(messages)
        if await is_blocked(self._channel.connection):
            return [BrokerUnavailable("the broker blocks publishers")] * len(messages)
        publish = _METHODS[self.method]
        try:
            answers = await publish(
                self._channel, messages, in_flight=self._in_flight, deadline=deadline
            )
        except TimeoutError as error:
            return [error] * len(messages)
        except asyncio.CancelledError:
            self._spent = True
            raise
        self._spent = self._spent or not all(map(answered, answers))
        if any(map(refused, answers)):
            self._refused = True
            self._refused_early = self._refused_early or not self._is_old
        return answers

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class ChannelProvider:
    """Keeps one link open. Used by one task at a time."""

    def __init__(self, connect: Connect, *, method: MethodName) -> None:
        self._connect = connect
        self._method = method
        self._link: ConfirmChannel | None = None
        self._fruitless_replacements = 0

    def another(self) -> "ChannelProvider":
        """One for a link of its own."""
        return ChannelProvider(self._connect, method=self._method)

    async def link(self) -> ConfirmChannel:
        """
        The open link, or else a new one.

        Raises BrokerUnavailable.
        """
        if self._link is None or await self._link.needs_replacement():
            if self._link is not None:
                self._fruitless_replacements = self._link.in_vain_so_far
            await self.close()
            connection = await self._connect()
            # Kept even if there will be no channel, so that `close` finds it.
            self._link = ConfirmChannel(
                connection,
                method=self._method,
                fruitless_replacements=self._fruitless_replacements,
            )
            await self._link.open()
            self._method = self._link.method
        return self._link

    def release(self) -> ConfirmChannel | None:
        """Hand out the link, if there is one, and have none."""
        link, self._link = self._link, None
        return link

    def adopt(self, link: ConfirmChannel | None) -> None:
        """Keep *link*, or drop it if one is open already."""
        kept, dropped = link, self._link
        if self._link is not None and not self._link.lost:
            kept, dropped = self._link, link
        if dropped is not None:
            dropped.drop()
        self._link = kept

    async def close(self) -> None:
        """Close the link; safe to call at any time."""
        if (link := self.release()) is not None:
            await link.close()
