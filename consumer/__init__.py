"""
The consumer: what a service that handles events imports.

    etl = Consumer("etl", bindings=["health.processing.#"])

    @etl.on("health.data.uploaded", model=HealthDataMessage)
    async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None: ...
"""

from consumer.consumer import Consumer
from consumer.handler import CircuitBreaker, OnLeaseExpired, RateLimit
from consumer.message import Message
from consumer.outcomes import Reject, Retry
from outbox.backoff import RetrySchedule

__all__ = [
    "CircuitBreaker",
    "Consumer",
    "Message",
    "OnLeaseExpired",
    "RateLimit",
    "Reject",
    "Retry",
    "RetrySchedule",
]
