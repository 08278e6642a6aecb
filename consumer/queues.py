"""
The queues of one consumer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from consumer.partition_names import partition_queue
from outbox.exchange import Binding as Chosen
from outbox.transports.topology import (
    NO_DELIVERY_LIMIT,
    Arguments,
    Binding,
    Queue,
    Topology,
    publishing,
)
from outbox.transports.user_topology import queue_bindings

_QUORUM: Arguments = {"x-queue-type": "quorum"}

_SAFE_DEAD_LETTERING: Arguments = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


@dataclass(frozen=True)
class ConsumerQueues:
    """
    The queues of one consumer.

    Args:
        name: Name of the work queue.
        bindings: Topic patterns, such as `health.processing.#`, or Bindings to other exchanges.
        delays: The delays of the retry queues, one queue for each.
        message_ttl: The broker dead-letters a message after this time in the work queue.
        delivery_limit: The broker dead-letters a message after this number of redeliveries; None
            if the consumer counts them.
        single_active: Only one subscription of the work queue gets messages; others stand by.
        is_partitioned: Messages reach the consumer through partitions, which are declared apart;
            the work queue, which is then not bound, gets its retries, requeues and replays.

    """

    name: str
    bindings: Sequence[str | Chosen]
    delays: Sequence[timedelta]
    message_ttl: timedelta | None = None
    delivery_limit: int | None = None
    single_active: bool = False
    is_partitioned: bool = False

    @property
    def dead(self) -> str:
        """Name of the dead queue, to which the broker dead-letters messages by itself."""
        return f"{self.name}.dead"

    @property
    def retry_prefix(self) -> str:
        """What the names of all retry queues begin with, those of former delays too."""
        return f"{self.name}.retry."

    @property
    def release(self) -> str:
        """
        Name of the queue to which the dead queue dead-letters; no process declares it.

        The dead queue holds its expired messages until a queue of this name exists.
        """
        return f"{self.dead}.release"

    def partition(self, generation: int, number: int) -> str:
        """Name of the queue of a partition; generation 0 is the work queue."""
        return partition_queue(self.name, generation, number)

    def retry(self, delay: timedelta) -> str:
        """Name of the queue in which a message waits for *delay*."""
        milliseconds = delay // timedelta(milliseconds=1)
        unit = f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
        return f"{self.retry_prefix}{unit}"

    @cached_property
    def retry_queues(self) -> dict[timedelta, str]:
        """The name of each retry queue by its delay."""
        return {delay: self.retry(delay) for delay in sorted(set(self.delays))}

    @property
    def names(self) -> list[str]:
        """The names of all queues that this consumer uses, the work queue first."""
        return [self.name, *self.retry_queues.values(), self.dead]

    def topology(self, *, main_exchange: str, dlx_exchange: str) -> Topology:
        """All queues of this consumer, with the exchanges to which they are bound."""
        base = publishing(main_exchange=main_exchange, dlx_exchange=dlx_exchange)
        bindings = [] if self.is_partitioned else self.bindings
        return Topology(
            exchanges=base.exchanges,
            queues=[
                self._dead_queue(),
                *(self._retry_queue(delay) for delay in self.retry_queues),
                self.work_queue(dlx_exchange),
            ],
            bindings=[
                Binding(dlx_exchange, self.dead, self.name),
                *queue_bindings(self.name, bindings, main_exchange),
            ],
        )

    def work_queue(self, dlx_exchange: str) -> Queue:
        """The queue from which the consumer takes its messages."""
        arguments: Arguments = {
            **_QUORUM,
            **_SAFE_DEAD_LETTERING,
            "x-dead-letter-exchange": dlx_exchange,
            "x-dead-letter-routing-key": self.name,
            "x-delivery-limit": self.delivery_limit or NO_DELIVERY_LIMIT,
        }
        if self.single_active:
            arguments["x-single-active-consumer"] = True
        if self.message_ttl is not None:
            arguments["x-message-ttl"] = self.message_ttl // timedelta(milliseconds=1)
        return Queue(self.name, arguments)

    def _dead_queue(self) -> Queue:
        """
        The dead queue, which drops no message.

        A length limit of a policy makes it refuse messages, which the work queue then keeps. If a
        TTL of a policy expires a message, the queue holds it, since no queue takes it.
        """
        return Queue(
            self.dead,
            {
                **_QUORUM,
                **_SAFE_DEAD_LETTERING,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.release,
                "x-delivery-limit": NO_DELIVERY_LIMIT,
            },
        )

    def _retry_queue(self, delay: timedelta) -> Queue:
        return Queue(
            self.retry(delay),
            {
                **_QUORUM,
                **_SAFE_DEAD_LETTERING,
                "x-message-ttl": delay // timedelta(milliseconds=1),
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.name,
            },
        )
