"""
Names and topology of a generation of partitions: pure.

RabbitMQ hashes a message without the header as if all had the same value. So messages with a lane
and those without go to two exchanges, which are bound to the same queues. After a restart RabbitMQ
3 builds the hash again from the bindings sorted by queue; they are declared in that order, so that
no lane changes its queue.
"""

from dataclasses import dataclass

from consumer.queues import ConsumerQueues
from outbox.transports.topology import (
    Binding,
    Exchange,
    ExchangeBinding,
    Queue,
    Topology,
)
from outbox.transports.user_topology import exchange_bindings, queue_bindings
from outbox.wire.headers import LANE_HEADER

ONE_SHARE = "1"
"""The binding key of a hash exchange is the weight of the queue."""


@dataclass(frozen=True, slots=True)
class PartitionQueues:
    """The queues of the partitions of a consumer that has *base*, with the two exchanges."""

    base: ConsumerQueues
    main_exchange: str
    dlx_exchange: str

    def queue(self, generation: int, number: int) -> str:
        """Name of the queue of a partition."""
        return self.base.partition(generation, number)

    def entrance(self, generation: int) -> str:
        """Name of the exchange that spreads messages over the partitions of a generation."""
        return f"{self.base.name}.g{generation}"

    def topology(self, generation: int, partitions: int) -> Topology:
        """The exchanges and queues of a generation above 0, without the bindings of `routes`."""
        entrance = self.entrance(generation)
        lanes, others = f"{entrance}.lanes", f"{entrance}.others"
        names = sorted(self.queue(generation, number) for number in range(partitions))
        work = self.base.work_queue(self.dlx_exchange)
        return Topology(
            exchanges=[
                Exchange(others, "x-consistent-hash", None, {"hash-property": "message_id"}),
                Exchange(lanes, "x-consistent-hash", None, {"hash-header": LANE_HEADER}),
                Exchange(entrance, "headers", others),
            ],
            queues=[Queue(name, work.arguments) for name in names],
            bindings=[
                Binding(hashed, name, ONE_SHARE) for hashed in (lanes, others) for name in names
            ],
            exchange_bindings=[ExchangeBinding(entrance, lanes, "", {LANE_HEADER: None})],
        )

    def routes(self, generation: int) -> Topology:
        """The bindings that lead messages of the main exchange to a generation."""
        main, bindings = self.main_exchange, self.base.bindings
        if generation == 0:
            return Topology(bindings=queue_bindings(self.base.name, bindings, main))
        entrance = self.entrance(generation)
        return Topology(exchange_bindings=exchange_bindings(entrance, bindings, main))
