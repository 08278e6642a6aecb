"""
Removing bindings, exchanges and empty queues from RabbitMQ.

Quorum queues refuse `if-empty`, so the number of messages is asked for before. A queue reports it
with a delay; a caller waits until its last publish to the queue is confirmed and consumed.
"""

from outbox.errors import TopologyMismatch
from outbox.transports.rabbitmq.topology import DeclarationChannel, missing_end
from outbox.transports.topology import Topology


async def remove(channel: DeclarationChannel, topology: Topology) -> list[str]:
    """
    Remove the entities of *topology*, see `Transport.remove`.

    Raises BrokerUnavailable, and TopologyMismatch if the user has no permission.
    """
    for binding in topology.bindings:
        async with channel.of(missing_end(binding)) as opened:
            await opened.queue_unbind(
                binding.queue, binding.exchange, binding.pattern, binding.arguments
            )
    for each in topology.exchange_bindings:
        async with channel.of(missing_end(each)) as opened:
            await opened.exchange_unbind(
                destination=each.destination,
                source=each.source,
                routing_key=each.pattern,
                arguments=each.arguments,
            )
    for exchange in topology.exchanges:
        async with channel.of(f"exchange {exchange.name}") as opened:
            await opened.exchange_delete(exchange.name)
    names = [queue.name for queue in topology.queues]
    return [name for name in names if not await _removed(channel, name)]


async def _removed(channel: DeclarationChannel, queue: str) -> bool:
    """Delete *queue* if it is empty; returns whether it is gone."""
    try:
        async with channel.of(f"queue {queue}") as opened:
            found = await opened.queue_declare(queue, passive=True)
    except TopologyMismatch:
        return True
    if found.message_count:
        return False
    async with channel.of(f"queue {queue}") as opened:
        await opened.queue_delete(queue)
    return True
