"""
A queue of the simulated broker: a quorum queue of RabbitMQ, as far as this project uses one.

A message that is given back returns to its old position. A message whose connection was lost is
counted, and dead-lettered beyond the delivery limit; so is an expired message at the head.
"""

import asyncio
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from outbox.transports.topology import Arguments
from outbox.wire.codec import WireMessage

_TRY_AGAIN_SECONDS = 10.0
"""How soon a message is dead-lettered again that had nowhere to go."""


@dataclass(slots=True, order=True)
class Held:
    """A message at its *position* in a queue, after *failures* failed deliveries."""

    position: int
    message: WireMessage = field(compare=False)
    expires_at: float | None = field(default=None, compare=False)
    failures: int = field(default=0, compare=False)
    redelivered: bool = field(default=False, compare=False)


@dataclass(eq=False, slots=True)
class Receiver:
    """
    A subscription with at most *capacity* *unsettled* messages.

    Args:
        deliver: Sends it a message.

    """

    deliver: Callable[[Held], None]
    capacity: int
    unsettled: dict[int, Held] = field(default_factory=dict)

    @property
    def has_room(self) -> bool:
        return len(self.unsettled) < self.capacity


class SimulatedQueue:
    """
    The queue *name*.

    Args:
        dead_letter: Dead-letters a message for a reason; returns whether some queue took it.

    """

    def __init__(
        self,
        name: str,
        arguments: Arguments,
        *,
        dead_letter: Callable[["SimulatedQueue", Held, str], bool],
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.ready: list[Held] = []
        self.receivers: list[Receiver] = []
        self.is_frozen = False
        self._dead_letter = dead_letter
        self._positions = 0

    @property
    def messages(self) -> list[WireMessage]:
        """All its messages, delivered or not."""
        out = [held for each in self.receivers for held in each.unsettled.values()]
        return [held.message for held in sorted([*self.ready, *out])]

    def put(self, message: WireMessage) -> None:
        """Append *message*."""
        self._positions += 1
        held = Held(self._positions, message)
        if (limit := self._argument("x-message-ttl")) is not None:
            held.expires_at = _now() + limit / 1000
            self._look_at(held.expires_at)
        self.ready.append(held)
        self.dispatch()

    def dispatch(self) -> None:
        """Deliver messages to subscriptions with room, in turn."""
        if self.is_frozen:
            return
        self._expire()
        while self.ready and (receiver := self._next_receiver()):
            held = self.ready.pop(0)
            receiver.unsettled[held.position] = held
            receiver.deliver(held)

    def ack(self, receiver: Receiver, positions: list[int]) -> None:
        """Remove these messages."""
        for position in positions:
            receiver.unsettled.pop(position, None)
        self.dispatch()

    def give_back(self, receiver: Receiver, positions: list[int], *, counted: bool) -> None:
        """Put these messages back; *counted* if the connection of their subscription was lost."""
        limit = self._argument("x-delivery-limit")
        for position in positions:
            held = receiver.unsettled.pop(position, None)
            if held is None:
                continue
            held.redelivered = True
            held.failures += counted
            if limit is None or held.failures <= limit or not self._gone(held, "delivery_limit"):
                insort(self.ready, held)
        self.dispatch()

    def leave(self, receiver: Receiver) -> None:
        """End a subscription; its unsettled messages return in order."""
        if receiver in self.receivers:
            receiver.capacity = 0
            self.give_back(receiver, sorted(receiver.unsettled), counted=True)
            self.receivers.remove(receiver)
            self.dispatch()

    def shuffle(self, jitter: Random) -> None:
        """Change the order of the ready messages."""
        positions = [held.position for held in self.ready]
        jitter.shuffle(self.ready)
        for position, held in zip(positions, self.ready, strict=True):
            held.position = position

    def thaw(self) -> None:
        """Resume after the broker was unavailable."""
        self.is_frozen = False
        self.dispatch()

    def _next_receiver(self) -> Receiver | None:
        if self.arguments.get("x-single-active-consumer"):
            first = self.receivers[:1]
            return first[0] if first and first[0].has_room else None
        found = next((each for each in self.receivers if each.has_room), None)
        if found is not None:
            self.receivers.remove(found)
            self.receivers.append(found)
        return found

    def _expire(self) -> None:
        while self.ready and _is_over(self.ready[0]):
            if not self._gone(self.ready[0], "expired"):
                self._look_at(_now() + _TRY_AGAIN_SECONDS)
                return
            self.ready.pop(0)

    def _gone(self, held: Held, reason: str) -> bool:
        return self._dead_letter(self, held, reason)

    def _look_at(self, when: float) -> None:
        asyncio.get_running_loop().call_at(when, self.dispatch)

    def _argument(self, name: str) -> Any:
        return self.arguments.get(name)


def _is_over(held: Held) -> bool:
    return held.expires_at is not None and held.expires_at <= _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
