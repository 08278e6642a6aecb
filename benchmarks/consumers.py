"""
The product's consumers that are measured: `consumer run benchmarks.consumers:single`.

They share a queue, which is filled anew for each; what they know to be done they keep apart.
"""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks import effects
from benchmarks.effects import EVENT_TYPE
from consumer import Consumer, Message

QUEUE = "benchmark.consumer"


def _consumer(name: str) -> Consumer:
    return Consumer(name, bindings=[EVENT_TYPE], queue=QUEUE)


single = _consumer("single")


@single.on(EVENT_TYPE)
async def handle(message: Message[Any], session: AsyncSession) -> None:
    """One message, one transaction."""
    await effects.add(session, message.id, message.payload)
