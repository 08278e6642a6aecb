"""
Deliveries that are handled together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from uuid import UUID, uuid4

from consumer.execution.reading import IN_CLEAR, Reading
from consumer.handler import Handler
from consumer.verdict import Verdict
from outbox.transports.delivery import Delivery


class QueuedDelivery(NamedTuple):
    """
    A delivery that waits for its handler.

    The smallest is handled first: *rank* orders by priority, *number* by arrival. *since* is the
    time of its arrival, in seconds of the event loop's clock. *strikes* is the number of processes
    that ended after they had begun its message as a redelivery.
    """

    rank: int
    number: int
    since: float
    delivery: Delivery
    strikes: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryBatch:
    """
    The deliveries of *queued*, in the order in which they are handled.

    Args:
        handler: None if no handler is registered for their type.
        has_breaker: Whether the handler has a circuit breaker.
        owner: The owner of their leases; the same if the batch is executed again.
        reading: How their bodies are read.

    """

    handler: Handler | None
    queued: Sequence[QueuedDelivery]
    deliveries: Sequence[Delivery]
    has_breaker: bool = False
    owner: UUID = field(default_factory=uuid4)
    reading: Reading = IN_CLEAR

    def read_by(self, reading: Reading) -> "DeliveryBatch":
        """Return the same batch, read in another way."""
        # By position: `dataclasses.replace` takes twice as long, for each message.
        return DeliveryBatch(
            self.handler, self.queued, self.deliveries, self.has_breaker, self.owner, reading
        )


class BatchExecutor(Protocol):
    """The executor, as the dispatcher calls it."""

    async def execute(self, batch: DeliveryBatch) -> list[Verdict]:
        """A verdict on each delivery of *batch*. Raises Unavailable."""


class ReadyExecutor(BatchExecutor, Protocol):
    """An executor that says whether it could work."""

    async def ready(self) -> bool:
        """Whether it can work; always true. Raises Unavailable."""
