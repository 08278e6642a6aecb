"""
What is handled together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID, uuid4

from consumer.handler import Handler
from outbox.transports.delivery import Delivery


class QueuedDelivery(NamedTuple):
    """A delivery that waits since the time *since*; smaller ones come first."""

    rank: int
    number: int
    since: float
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """
    Deliveries to be handled together; *handler* is None if there is none for their type.

    *owner* is who has the leases on them, however often they are claimed.
    """

    handler: Handler | None
    waiting: Sequence[QueuedDelivery]
    owner: UUID = field(default_factory=uuid4)

    @property
    def deliveries(self) -> list[Delivery]:
        """In the order in which they are handled."""
        return [each.delivery for each in self.waiting]
