"""
Whether the broker knows the type of exchange that partitions need; asking has no effect.
"""

from typing import Final

from outbox.errors import TopologyMismatch
from outbox.transports.base import Transport
from outbox.transports.topology import Exchange, Topology

HASH_TYPE: Final = "x-consistent-hash"

_PROBE = Topology([Exchange("amq.topic", HASH_TYPE)])
"""An exchange that each virtual host has, with another type. No user can replace it."""


async def check_hash_type(transport: Transport) -> None:
    """
    Check that the broker knows `x-consistent-hash`.

    RabbitMQ looks for the type before it compares it with that of the exchange that exists.
    Raises TopologyMismatch, which names the plugin, and BrokerUnavailable.
    """
    try:
        await transport.verify(_PROBE)
    except TopologyMismatch as mismatch:
        if mismatch.argument == HASH_TYPE:
            raise
