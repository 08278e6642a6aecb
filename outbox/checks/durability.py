"""
Confirmed messages that the broker may lose by its settings: a process says so at its start.
"""

from outbox import redis_urls
from outbox.checks import redis
from outbox.checks.result import Status
from outbox.runtime import logs
from outbox.settings import SharedSettings
from outbox.transports.base import Transport


async def warn(broker: Transport, settings: SharedSettings) -> None:
    """
    Log each setting of a Redis by which it may lose messages, or that could not be read.

    Other brokers keep what they confirm, or `check_policies` finds why not. Raises
    BrokerUnavailable.
    """
    if settings.brokers[0].scheme not in redis_urls.SCHEMES:
        return
    facts = await broker.inspect(())
    if facts.redis is None:
        return
    for result in redis.of_durability(facts.redis, awaited=settings.redis_replicas):
        if result.status is not Status.OK:
            logs.get("broker").warning("messages_may_be_lost", problem=result.text)
