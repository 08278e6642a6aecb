"""
The consumer: what a service that handles events imports.

    etl = Consumer("etl", bindings=["health.processing.#"])

    @etl.on("health.data.uploaded", model=HealthDataMessage)
    async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None: ...
"""

from consumer.consumer import Consumer
from consumer.message import Message

__all__ = ["Consumer", "Message"]
