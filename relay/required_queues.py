"""
Queues that have to be bound to the exchange before the relay publishes.

Without them, the first consumer that binds its queue after an exchange was deleted would take the
whole backlog, and the others would get none of it. AMQP cannot list bindings: an item with a
pattern is bound by the relay itself, and an item without one is asked for in the management API.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from outbox.errors import BrokerUnavailable, ConfigurationError, TopologyMismatch
from outbox.runtime.service import pause
from outbox.transports.base import Outcome, Publisher, Transport
from outbox.transports.management import API, Management
from outbox.transports.topology import Binding, Topology
from outbox.wire.codec import WireMessage
from relay.telemetry import Telemetry

CHECK_EVERY = timedelta(seconds=5)
_UNSURE = {Outcome.RETURNED, Outcome.UNKNOWN}
"""After these the exchange may be another one, with other bindings."""


class RequiredQueues:
    """
    The *items* of MQ_REQUIRED_QUEUES, each `queue` or `queue=pattern`.

    Raises ConfigurationError for an item without a pattern if *management* is None.
    """

    def __init__(
        self,
        items: Sequence[str],
        *,
        exchange: str,
        transport: Transport,
        management: Management | None,
    ) -> None:
        pairs = [item.partition("=") for item in items]
        self._bindings = [Binding(exchange, name, key) for name, sign, key in pairs if sign]
        self._names = [name for name, sign, _ in pairs if not sign]
        if self._names and management is None:
            raise ConfigurationError(
                f"MQ_REQUIRED_QUEUES: {self._names[0]} needs a pattern, as in "
                f"{self._names[0]}=health.#, or MQ_MANAGEMENT_URL"
            )
        self._exchange = exchange
        self._transport = transport
        self._management = management

    async def missing(self, *, binds: bool = True) -> dict[str, str]:
        """
        Return a problem for each queue that is missing, by the name of the queue.

        Queues that have a pattern are bound; if *binds* is false they only have to exist.
        Raises BrokerUnavailable, and ConfigurationError if the management API refuses the user.
        """
        problems: dict[str, str] = {}
        for binding in self._bindings:
            if not binds:
                if await self._transport.depth(binding.queue) is None:
                    problems[binding.queue] = f"queue {binding.queue} does not exist"
                continue
            try:
                await self._transport.declare(Topology(bindings=[binding]))
            except TopologyMismatch:
                problems[binding.queue] = (
                    f"queue {binding.queue} cannot be bound to exchange {binding.exchange}: one "
                    "of them does not exist, or the broker's user has no permission"
                )
        return problems | await self._unbound()

    async def _unbound(self) -> dict[str, str]:
        if self._management is None:
            return {}
        return {
            name: f"queue {name} is not bound to exchange {self._exchange}"
            for name in self._names
            if not await self._management.is_bound(name, self._exchange)
        }


class GatedPublisher:
    """
    A *publisher* that is not ready while a required queue is missing.

    Queues are checked before the first publish, after a publish whose outcome shows that the
    exchange or the connection was lost, and every few seconds by `run`.
    """

    def __init__(
        self, publisher: Publisher, required: RequiredQueues, telemetry: Telemetry
    ) -> None:
        self._publisher = publisher
        self._required = required
        self._telemetry = telemetry
        self._is_open = False

    async def ready(self) -> None:
        await self._publisher.ready()
        if not self._is_open:
            await self._check()

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        outcomes = await self._publisher.publish(messages, within=within)
        if not _UNSURE.isdisjoint(outcomes):
            self._is_open = False
        return outcomes

    async def run(self, stop: asyncio.Event) -> None:
        """Check until *stop* is set; `ready` raises what a check finds."""
        while not stop.is_set():
            await pause(stop, CHECK_EVERY)
            try:
                await self._check()
            except BrokerUnavailable:
                self._is_open = False

    async def _check(self) -> None:
        try:
            problems = await self._required.missing()
            waits_for = [f"queue {name}" for name in problems]
        except ConfigurationError as error:
            problems = {"": str(error)}
            waits_for = [API]
        self._telemetry.queues_missing(len(problems))
        self._is_open = not problems
        if problems:
            raise BrokerUnavailable(
                "MQ_REQUIRED_QUEUES: " + "; ".join(problems.values()), waits_for=waits_for
            )
