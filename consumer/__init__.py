"""
The consumer: what a service that handles events imports.

    etl = Consumer("etl", bindings=["health.processing.#"])

    @etl.on("health.data.uploaded", model=HealthDataMessage)
    async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None: ...
"""

from consumer.consumer import Consumer
from consumer.handler import CircuitBreaker, Expired, RateLimit
from consumer.message import Message
from consumer.outcomes import Reject, Retry
from outbox.backoff import Levels

__all__ = [
    "CircuitBreaker",
    "Consumer",
    "Expired",
    "Levels",
    "Message",
    "RateLimit",
    "Reject",
    "Retry",
]
