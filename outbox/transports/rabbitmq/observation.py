"""
Observing RabbitMQ: copies that the broker's own tracer makes, the firehose.

    relay ──publish──▶ main exchange ──▶ queues of the consumers
                            ┊ copy, after the routing
                            ▼
                      amq.rabbitmq.trace ──publish.<exchange>──▶ exclusive queue ──▶ observer

A queue that an observer binds to the main exchange would count as a queue that has the message:
`mandatory` would return nothing, the broker would ack an event that no consumer's queue takes, and
the relay would delete its row. So would a binding between exchanges. The tracer is the only place
where the broker copies a message without a part in its routing; it also says which queues took it.

The price: an administrator switches the tracer on, on each node and for the whole virtual host,
and while it is on the broker makes a copy of every publish and every delivery there. It is off
after a restart.

The queue is exclusive, so that the broker deletes it with the connection, and it drops its oldest
copies when it is full; the tracer waits for no queue.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

import aiormq
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from outbox.errors import BrokerUnavailable, ConfigurationError
from outbox.transports.delivery import Delivery
from outbox.transports.observation import MOST_BYTES, MOST_COPIES, Copy, CopyBuffer
from outbox.transports.rabbitmq.connection import connection_errors
from outbox.transports.rabbitmq.frame_reader import FrameReader, incompatibility
from outbox.transports.rabbitmq.subscription import reason_of_end, to_delivery
from outbox.transports.rabbitmq.topology import DeclarationChannel
from outbox.transports.topology import Arguments, Binding
from outbox.transports.topology import matches as matches_pattern
from outbox.wire.codec import WireMessage

TRACE_EXCHANGE = "amq.rabbitmq.trace"
ANSWERS_WITHIN_SECONDS = 10.0
LONGEST_EXCHANGE = 247
"""Bytes of a name that still fits into a binding of the tracer: `publish.` takes the others."""

_QUEUE: Arguments = {
    "x-queue-type": "classic",
    "x-overflow": "drop-head",
    "x-max-length": MOST_COPIES,
    "x-max-length-bytes": MOST_BYTES,
}
_OFF = (
    "the broker makes no copies for observers, as its tracer is off in this virtual host: an"
    " administrator switches it on with `rabbitmqctl trace_on -p VHOST` on each node, and off"
    " afterwards with `rabbitmqctl trace_off -p VHOST`"
)


class RabbitMQObservation:
    """
    Copies of the messages that match *bindings*, on a connection of their own.

    Args:
        name: The name of the queue, which exists as long as the connection.
        bodies: Whether the copies keep their bodies.

    """

    def __init__(
        self,
        connection: AbstractConnection,
        bindings: Sequence[Binding],
        *,
        name: str,
        bodies: bool,
    ) -> None:
        self._connection = connection
        self._bindings = bindings
        self._name = name
        self._bodies = bodies
        self._buffer = CopyBuffer()
        self._probes: asyncio.Queue[Literal["probe", "copy"]] = asyncio.Queue()
        self._unreadable = 0

    @property
    def missed(self) -> int:
        return self._buffer.missed + self._unreadable

    async def start(self) -> None:
        """
        Start receiving.

        Raises ConfigurationError if the tracer is off, TopologyMismatch if an exchange is missing
        or a permission, and BrokerUnavailable.
        """
        await self._declare()
        with connection_errors("cannot observe"):
            channel = await self._connection.channel(publisher_confirms=False)
            underlay = cast("Any", await channel.get_underlay_channel())
            underlay.closing.add_done_callback(self._on_end)
            underlay.on_consumer_cancel_callbacks.add(self._on_end)
            if incompatibility(self._connection, underlay) is None:
                reader: FrameReader = cast("Any", self._connection).frame_reader
                reader.follow(underlay.number, self._put)
            await underlay.basic_consume(self._name, self._on_delivery, no_ack=True)
            try:
                async with asyncio.timeout(ANSWERS_WITHIN_SECONDS):
                    await self._probe(underlay)
                    if all(binding.exchange for binding in self._bindings):
                        # Retries and replies pass the default exchange, and would push copies out.
                        await underlay.queue_unbind(self._name, TRACE_EXCHANGE, "publish.")
            except aiormq.exceptions.ChannelAccessRefused:
                raise BrokerUnavailable(
                    "the broker's user may not write to the default exchange", refused=True
                ) from None

    async def take(self, limit: int) -> list[Copy]:
        return await self._buffer.take(limit)

    async def _declare(self) -> None:
        channel = DeclarationChannel(self._connection)
        exchanges = dict.fromkeys(binding.exchange for binding in self._bindings)
        for exchange in filter(None, exchanges):
            if len(exchange.encode()) > LONGEST_EXCHANGE:
                raise ConfigurationError(
                    f"exchange {exchange}: cannot be observed: its name is longer than"
                    f" {LONGEST_EXCHANGE} bytes"
                )
            async with channel.of(f"exchange {exchange}") as opened:
                await opened.exchange_declare(exchange, passive=True)
        async with channel.of(f"queue {self._name}") as opened:
            await opened.queue_declare(
                self._name, exclusive=True, auto_delete=True, arguments=dict(_QUEUE)
            )
        async with channel.of(f"exchange {TRACE_EXCHANGE}") as opened:
            # The default exchange, which has no name, is that of the probe.
            for exchange in dict.fromkeys([*exchanges, ""]):
                await opened.queue_bind(self._name, TRACE_EXCHANGE, f"publish.{exchange}")

    async def _probe(self, channel: Any) -> None:
        """
        Raise ConfigurationError if the tracer is off.

        Two messages go through the default exchange to the own queue. The channel sends each one
        and its copy in turn, so that the second one arrives after the copy of the first.
        """
        for _ in range(2):
            await channel.basic_publish(b"", routing_key=self._name, wait=False)
        arrived = [await self._probes.get() for _ in range(2)]
        if "copy" not in arrived:
            raise ConfigurationError(_OFF)

    async def _on_delivery(self, delivered: DeliveredMessage) -> None:
        self._put([to_delivery(delivered)])

    def _put(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.message.exchange != TRACE_EXCHANGE:
                self._probes.put_nowait("probe")
            elif (copy := to_copy(delivery, bodies=self._bodies)) is None:
                self._unreadable += 1
            elif copy.message.routing_key == self._name and not copy.message.exchange:
                self._probes.put_nowait("copy")
            elif _is_chosen(copy.message, self._bindings):
                self._buffer.put([copy])

    def _on_end(self, cause: Any) -> None:
        self._buffer.fail(reason_of_end(cause))


def to_copy(delivery: Delivery, *, bodies: bool) -> Copy | None:
    """Return the message that the tracer describes in *delivery*; None if it is unreadable."""
    headers = delivery.message.headers
    properties, keys = headers.get("properties"), headers.get("routing_keys")
    if delivery.decode_error is not None or not isinstance(properties, Mapping) or not keys:
        return None
    inner, body = properties.get("headers"), delivery.message.body
    queues = headers.get("routed_queues") or []
    return Copy(
        WireMessage(
            exchange=str(headers.get("exchange_name", "")),
            routing_key=str(keys[0]),
            body=body if bodies else b"",
            message_id=_text(properties.get("message_id")),
            type=_text(properties.get("type")),
            correlation_id=_text(properties.get("correlation_id")),
            timestamp=_time(properties.get("timestamp")),
            content_type=_text(properties.get("content_type")),
            content_encoding=_text(properties.get("content_encoding")),
            priority=_number(properties.get("priority")),
            headers=dict(inner) if isinstance(inner, Mapping) else {},
        ),
        size=len(body),
        queues=sorted(map(str, queues)),
    )


def _is_chosen(message: WireMessage, bindings: Sequence[Binding]) -> bool:
    return any(
        binding.exchange == message.exchange
        and matches_pattern(binding.pattern, message.routing_key)
        for binding in bindings
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _time(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromtimestamp(value, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
