"""
A simulated broker in memory, with RabbitMQ's semantics and its faults.

- A message goes to each queue that is bound to its key; without any it is returned.
- A confirm may get lost, whether the broker took the message or not. A message may be returned or
  refused although its route exists; some of several queues may have taken it.
- The broker may block publishers: it confirms nothing, and reads their messages later.
- Dead-lettering moves messages between queues, and loses none. A queue that was declared without
  this strategy, or that drops messages when it is full, loses a message that no queue takes.
- Operators remove bindings and limit queues. A witness records which queue would have got the
  messages that no longer reach it.
"""

import asyncio
import operator
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import Outcome, QueueDepth, argument_mismatch
from outbox.transports.topology import Binding, Topology, matches
from outbox.wire.codec import WireMessage
from tests.reliability.simulation.broker_connection import BrokerConnection
from tests.reliability.simulation.process import Process
from tests.reliability.simulation.queue import Held, Policy, SimulatedQueue

_LONGEST_NAME = 255
_LARGEST_PRIORITY = 255


class BrokerFault(StrEnum):
    """A fault of a published message."""

    LOST = "lost"
    """It never arrives."""
    TAKEN = "taken"
    """It is taken, and the confirm is lost."""
    RETURNED = "returned"
    """For a moment nothing is bound to its key."""
    REFUSED = "refused"
    """No queue takes it."""
    REFUSED_BY_SOME = "refused_by_some"
    """One queue takes it, and the answer is that it was refused."""


class Broker:
    """
    Exchanges, queues, and connections to them.

    Args:
        delay: Draws the seconds that a message travels.
        on_publish: Called with each published message that the broker accepts.
        has_priorities: Whether messages of a high priority go first, as with RabbitMQ 4.

    """

    def __init__(
        self,
        *,
        delay: Callable[[], float],
        on_publish: Callable[[WireMessage], None] = lambda _: None,
        has_priorities: bool = False,
    ) -> None:
        self.queues: dict[str, SimulatedQueue] = {}
        self.archive: dict[str, list[WireMessage]] = {}
        self.broker_faults: deque[BrokerFault] = deque()
        self.is_unavailable = False
        self.is_blocked = False
        self.disturbances = 0
        self._delay = delay
        self._on_publish = on_publish
        self._exchanges: dict[str, str] = {}
        self._has_priorities = has_priorities
        self._bindings: dict[Binding, None] = {}
        self.removed_bindings: dict[Binding, None] = {}
        self.missed: list[tuple[str, WireMessage]] = []
        self._connections: list[BrokerConnection] = []
        self._unread: list[
            tuple[BrokerConnection, Sequence[WireMessage], asyncio.Future[list[Outcome]]]
        ] = []

    def connect(self, process: Process | None) -> BrokerConnection:
        """Raises BrokerUnavailable if it is unavailable."""
        if process is not None:
            process.check()
        if self.is_unavailable:
            raise BrokerUnavailable("the connection was refused")
        connection = BrokerConnection(process, delay=self._delay)
        connection.at_end.append(lambda: self._connections.remove(connection))
        self._connections.append(connection)
        if process is not None:
            process.at_death(connection.cut)
        return connection

    def cut(self, process: Process | None = None) -> None:
        """Cut the connections of *process*, or of all processes."""
        self.disturbances += 1
        for connection in list(self._connections):
            if process is None or connection.process is process:
                connection.cut()

    def leave(self) -> None:
        """Become unavailable; the content of queues stays."""
        self.is_unavailable = True
        for queue in self.queues.values():
            queue.is_frozen = True
        self.cut()

    def come_back(self) -> None:
        """Become available again."""
        self.is_unavailable = False
        for queue in self.queues.values():
            queue.thaw()

    def block(self) -> None:
        """Stop reading published messages."""
        self.disturbances += 1
        self.is_blocked = True

    def unblock(self) -> None:
        """Read the messages published meanwhile, unless their connection has ended."""
        self.is_blocked = False
        unread, self._unread = self._unread, []
        for connection, messages, answer in unread:
            if connection.is_open:
                outcomes = [self._take(message) for message in messages]
                if not answer.done():
                    answer.set_result(outcomes)

    async def publish(
        self, connection: BrokerConnection, messages: Sequence[WireMessage]
    ) -> list[Outcome]:
        """Take *messages*, which have arrived on *connection*, once publishers are not blocked."""
        if not self.is_blocked:
            return [self._take(message) for message in messages]
        answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._unread.append((connection, messages, answer))
        return await answer

    def repeat(self, queue: str, message: WireMessage) -> None:
        """Put one more copy of *message* into *queue*, unless it is full and refuses messages."""
        if not self.queues[queue].refuses:
            self.queues[queue].put(message)

    def declare(self, topology: Topology) -> None:
        """Raises TopologyMismatch for the first entity that exists with other arguments."""
        for exchange in topology.exchanges:
            self._exchanges.setdefault(exchange.name, exchange.kind)
        for queue in topology.queues:
            if queue.name not in self.queues:
                self.queues[queue.name] = SimulatedQueue(
                    queue.name,
                    dict(queue.arguments),
                    dead_letter=self._dead_letter,
                    has_priorities=self._has_priorities,
                )
                self.archive[queue.name] = []
        self.verify(topology)
        for binding in topology.bindings:
            self._require("exchange", binding.exchange, self._exchanges)
            self._require("queue", binding.queue, self.queues)
            self._bindings[binding] = None
            self.removed_bindings.pop(binding, None)

    def unbind(self, queue: str) -> None:
        """Remove the bindings of *queue* to the exchange that the relay publishes to."""
        for binding in list(self._bindings):
            if binding.queue == queue and self._exchanges[binding.exchange] == "topic":
                del self._bindings[binding]
                self.removed_bindings[binding] = None

    def limit(self, queue: str, policy: Policy | None) -> None:
        """Apply an operator's *policy* to *queue*; None removes it."""
        self.queues[queue].policy = policy

    def clock_jumped(self) -> None:
        """Look for expired messages: the wall clock has jumped."""
        for queue in self.queues.values():
            queue.dispatch()

    def verify(self, topology: Topology) -> None:
        """Raises TopologyMismatch for the first entity that is not as declared."""
        for exchange in topology.exchanges:
            self._require("exchange", exchange.name, self._exchanges)
            if self._exchanges[exchange.name] != exchange.kind:
                raise argument_mismatch("exchange", exchange.name, "type")
        for queue in topology.queues:
            found = self.queue(queue.name).arguments
            if differences := found.items() ^ queue.arguments.items():
                raise argument_mismatch("queue", queue.name, min(name for name, _ in differences))

    def queue(self, name: str) -> SimulatedQueue:
        """Raises TopologyMismatch if it does not exist."""
        self._require("queue", name, self.queues)
        return self.queues[name]

    def depth(self, name: str) -> QueueDepth | None:
        """How many messages and subscriptions the queue has."""
        queue = self.queues.get(name)
        return None if queue is None else QueueDepth(len(queue.messages), len(queue.receivers))

    def _take(self, message: WireMessage) -> Outcome:
        if not _can_be_sent(message):
            return Outcome.REJECTED
        broker_fault = self.broker_faults.popleft() if self.broker_faults else None
        self.disturbances += broker_fault is not None
        queues, outcome = self._without_full(self._route(message))
        match broker_fault:
            case BrokerFault.LOST:
                queues, outcome = [], Outcome.UNKNOWN
            case BrokerFault.TAKEN:
                outcome = Outcome.UNKNOWN
            case BrokerFault.RETURNED:
                queues, outcome = [], Outcome.RETURNED
            case BrokerFault.REFUSED:
                queues, outcome = [], Outcome.NACKED
            case BrokerFault.REFUSED_BY_SOME if queues:
                queues, outcome = queues[:1], Outcome.NACKED
        self._put(message, queues)
        if queues:
            missed = self._matching(message, self.removed_bindings)
            self.missed += [(name, message) for name in missed if name not in queues]
        return outcome

    def _without_full(self, routed: Sequence[str]) -> tuple[Sequence[str], Outcome]:
        """The *routed* queues that accept a message, and the answer to its publisher."""
        queues = [name for name in routed if not self.queues[name].refuses]
        if len(queues) < len(routed):
            # The message will be published again, to those queues too that have taken it.
            self.disturbances += 1
            return queues, Outcome.NACKED
        return queues, Outcome.ACKED if queues else Outcome.RETURNED

    def _put(self, message: WireMessage, queues: Sequence[str]) -> None:
        carried = _on_the_wire(message)
        if queues:
            self._on_publish(carried)
        for name in queues:
            self.archive[name].append(carried)
            self.queues[name].put(carried)

    def _route(self, message: WireMessage) -> list[str]:
        if not message.exchange:
            return [message.routing_key] if message.routing_key in self.queues else []
        return self._matching(message, self._bindings)

    def _matching(self, message: WireMessage, bindings: dict[Binding, None]) -> list[str]:
        fits = matches if self._exchanges.get(message.exchange) == "topic" else operator.eq
        found = {
            binding.queue: None
            for binding in bindings
            if binding.exchange == message.exchange and fits(binding.pattern, message.routing_key)
        }
        return list(found)

    def _dead_letter(self, queue: SimulatedQueue, held: Held, reason: str) -> bool:
        """If it is at least once, a message without a target queue stays where it is."""
        exchange = queue.arguments.get("x-dead-letter-exchange")
        if exchange is None:
            return True
        key = queue.arguments.get("x-dead-letter-routing-key", held.message.routing_key)
        letter = replace(
            held.message,
            exchange=str(exchange),
            routing_key=str(key),
            headers=_with_death(held.message, queue.name, reason),
        )
        targets = [name for name in self._route(letter) if not self.queues[name].refuses]
        for name in targets:
            self.queues[name].put(letter)
        return bool(targets) or not queue.dead_letters_at_least_once

    @staticmethod
    def _require(kind: str, name: str, things: dict[str, Any]) -> None:
        if name not in things:
            raise TopologyMismatch(f"{kind} {name} does not exist")


def _can_be_sent(message: WireMessage) -> bool:
    names = (message.exchange, message.routing_key)
    fits = all(len(name.encode()) <= _LONGEST_NAME for name in names)
    return fits and (message.priority is None or 0 <= message.priority <= _LARGEST_PRIORITY)


def _on_the_wire(message: WireMessage) -> WireMessage:
    stamp = message.timestamp
    return replace(
        message,
        timestamp=None if stamp is None else stamp.replace(microsecond=0),
        headers=MappingProxyType(dict(message.headers)),
    )


def _with_death(message: WireMessage, queue: str, reason: str) -> dict[str, Any]:
    earlier = message.headers.get("x-death", [])
    death = {
        "queue": queue,
        "reason": reason,
        "exchange": message.exchange,
        "routing-keys": [message.routing_key],
    }
    others = [each for each in earlier if (each["queue"], each["reason"]) != (queue, reason)]
    return {**message.headers, "x-death": [death, *others]}
