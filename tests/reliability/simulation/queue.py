"""
A queue of the simulated broker: a quorum queue of RabbitMQ, as far as this project uses one.

- A message that is given back returns to its old position. It is counted, whether its connection
  was lost or its consumer gave it back, and dead-lettered beyond the delivery limit. That goes for
  each message that was sent ahead, too: the broker does not know which one was begun.
- An expired message is dead-lettered once it is the next one. Times to live follow the wall clock.
- With priorities (RabbitMQ 4), messages above 4 go first, two for each other one. So an expired
  message waits while a message of a higher priority, which has not expired, is the next one.
- A policy may limit the number of ready messages. Its overflow behaviour counts only if the queue
  was declared without one.
"""

import asyncio
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from outbox.transports.topology import Arguments
from outbox.wire.codec import WireMessage

_TRY_AGAIN_SECONDS = 10.0
"""How soon a message is dead-lettered again that had nowhere to go."""
_HIGH = 5
"""From this priority on a message goes first."""
_HIGH_IN_A_ROW = 2

DROP_HEAD = "drop-head"
REJECT_PUBLISH = "reject-publish"


@dataclass(frozen=True, slots=True)
class Policy:
    """
    An operator's limit of a queue.

    Args:
        overflow: The behaviour of a full queue that was declared without one.

    """

    max_length: int
    overflow: str = DROP_HEAD


@dataclass(slots=True, order=True)
class Held:
    """A message at its *position* in a queue, after *failures* failed deliveries."""

    position: int
    message: WireMessage = field(compare=False)
    expires_at: float | None = field(default=None, compare=False)
    failures: int = field(default=0, compare=False)
    redelivered: bool = field(default=False, compare=False)

    @property
    def is_high(self) -> bool:
        """Whether it goes before the others in a queue with priorities."""
        return (self.message.priority or 0) >= _HIGH


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
        has_priorities: Whether messages of a high priority go first.

    """

    def __init__(
        self,
        name: str,
        arguments: Arguments,
        *,
        dead_letter: Callable[["SimulatedQueue", Held, str], bool],
        has_priorities: bool = False,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.ready: list[Held] = []
        self.receivers: list[Receiver] = []
        self.is_frozen = False
        self.policy: Policy | None = None
        self._dead_letter = dead_letter
        self._has_priorities = has_priorities
        self._high_in_a_row = 0
        self._timer: asyncio.TimerHandle | None = None
        self._positions = 0

    @property
    def messages(self) -> list[WireMessage]:
        """All its messages, delivered or not."""
        out = [held for each in self.receivers for held in each.unsettled.values()]
        return [held.message for held in sorted([*self.ready, *out])]

    @property
    def dead_letters_at_least_once(self) -> bool:
        """Whether it keeps a message that no queue takes; RabbitMQ requires both arguments."""
        strategy = self._argument("x-dead-letter-strategy")
        return strategy == "at-least-once" and self._overflow == REJECT_PUBLISH

    @property
    def refuses(self) -> bool:
        """Whether it is full, and takes no message more."""
        return self._is_full and self._overflow == REJECT_PUBLISH

    def put(self, message: WireMessage) -> None:
        """Append *message*; a full queue that does not refuse messages drops its first one."""
        if self._is_full:
            self._gone(self.ready.pop(0), "maxlen")
        self._positions += 1
        held = Held(self._positions, message)
        if (limit := self._argument("x-message-ttl")) is not None:
            held.expires_at = _wall_clock() + limit / 1000
        self.ready.append(held)
        self.dispatch()

    def dispatch(self) -> None:
        """Deliver messages to subscriptions with room, in turn."""
        if self.is_frozen:
            return
        self._expire()
        while self.ready and (receiver := self._next_receiver()):
            held = self._next()
            self._take(held)
            receiver.unsettled[held.position] = held
            receiver.deliver(held)

    def ack(self, receiver: Receiver, positions: list[int]) -> None:
        """Remove these messages."""
        for position in positions:
            receiver.unsettled.pop(position, None)
        self.dispatch()

    def give_back(self, receiver: Receiver, positions: list[int]) -> None:
        """Put these messages back, and count it."""
        limit = self._argument("x-delivery-limit")
        for position in positions:
            held = receiver.unsettled.pop(position, None)
            if held is None:
                continue
            held.redelivered = True
            held.failures += 1
            if limit is None or held.failures <= limit or not self._gone(held, "delivery_limit"):
                insort(self.ready, held)
        self.dispatch()

    def leave(self, receiver: Receiver) -> None:
        """End a subscription; its unsettled messages return in order."""
        if receiver in self.receivers:
            receiver.capacity = 0
            self.give_back(receiver, sorted(receiver.unsettled))
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

    def _next(self) -> Held:
        """The message that is delivered next, or expires next."""
        if not self._has_priorities:
            return self.ready[0]
        high = next((held for held in self.ready if held.is_high), None)
        other = next((held for held in self.ready if not held.is_high), None)
        others_turn = self._high_in_a_row >= _HIGH_IN_A_ROW
        found = other or high if others_turn else high or other
        assert found is not None
        return found

    def _take(self, held: Held) -> None:
        self.ready.remove(held)
        self._high_in_a_row = self._high_in_a_row + 1 if held.is_high else 0

    def _expire(self) -> None:
        while self.ready:
            head = self._next()
            if head.expires_at is None:
                return
            if (left := head.expires_at - _wall_clock()) > 0:
                self._look_after(left)
                return
            if not self._gone(head, "expired"):
                self._look_after(_TRY_AGAIN_SECONDS)
                return
            self._take(head)

    def _gone(self, held: Held, reason: str) -> bool:
        return self._dead_letter(self, held, reason)

    def _look_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.dispatch)

    @property
    def _is_full(self) -> bool:
        limits = [self._argument("x-max-length"), self.policy.max_length if self.policy else None]
        limit = min((each for each in limits if each is not None), default=None)
        return limit is not None and len(self.ready) >= limit

    @property
    def _overflow(self) -> str:
        by_policy = self.policy.overflow if self.policy else DROP_HEAD
        return str(self.arguments.get("x-overflow", by_policy))

    def _argument(self, name: str) -> Any:
        return self.arguments.get(name)


def _wall_clock() -> float:
    return datetime.now(UTC).timestamp()
