"""
A consumer whose handlers are all of the kind that `KIND` names; effects outside are lines.
"""

import os
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from outbox import HealthDataMessage
from tests.support import effects
from tests.support.behaviours import record_call

KIND = os.environ.get("KIND", "single")
BEHAVIOURS = {
    "test.happened": effects.apply,
    "test.fails.always": effects.fail_always,
    "test.is.cancelled.by.itself": effects.cancel_itself,
    "health.data.uploaded": effects.apply,
}

consumer = Consumer("kinds", bindings=["#"], ordered=KIND == "ordered")


def register(event_type: str, behaviour: Any) -> None:
    options: Any = {"model": HealthDataMessage} if event_type == "health.data.uploaded" else {}

    async def of_list(messages: Sequence[Message[Any]], session: AsyncSession) -> None:
        for message in messages:
            await behaviour(message, session)

    async def outside(message: Message[Any]) -> None:
        if "happened" not in event_type:
            raise RuntimeError
        record_call(f"{message.id} {message.idempotency_key} {message.attempt}\n")

    match KIND:
        case "batch":
            consumer.on(event_type, batch_size=10, **options)(behaviour)
        case "list":
            consumer.on_batch(event_type, size=10, **options)(of_list)
        case "leased":
            consumer.on_leased(event_type, **options)(outside)
        case _:
            consumer.on(event_type, **options)(behaviour)


for name, function in BEHAVIOURS.items():
    register(name, function)
