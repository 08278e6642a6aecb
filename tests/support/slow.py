"""
A consumer whose handlers wait for a file, until a test has ended their process a few times.
"""

import asyncio
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from tests.support.behaviours import is_unavailable, record_call
from tests.support.effects import apply

consumer = Consumer("slow", bindings=["test.#"])


@consumer.on("test.slow")
async def wait_for_gate(message: Message[Any], session: AsyncSession) -> None:
    record_call(f"{message.id} {message.idempotency_key} {message.attempt}\n")
    while is_unavailable():
        await asyncio.wait({asyncio.ensure_future(asyncio.Event().wait())}, timeout=0.05)
    await apply(message, session)


consumer.on("test.happened")(apply)
