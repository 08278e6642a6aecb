"""
A consumer that gets messages of exchanges of every kind, and the table that it writes.
"""

from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Binding, Consumer, Exchange, Message
from tests.support import effects

EXCHANGES = [
    Exchange("vitals", "fanout", bindings=["health.vitals.#"]),
    Exchange("by_source", "headers", bindings=[Binding("vitals")]),
    Exchange("exact", "direct", alternate="spare"),
    Exchange("spare", "topic"),
]

consumer = Consumer(
    "routed",
    bindings=[
        "health.plain",
        Binding("by_source", headers={"source": "ward", "schema-version": 2}, match="all"),
        Binding("exact", "health.exact"),
        Binding("spare", "health.spare.*"),
    ],
    exchanges=EXCHANGES,
)


@consumer.on("health.happened")
async def apply(message: Message[object], session: AsyncSession) -> None:
    await effects.apply(message, session)


@consumer.on("health.fails.once")
async def fail_once(message: Message[object], session: AsyncSession) -> None:
    await effects.fail_once(message, session)


@consumer.on("health.fails.always")
async def fail_always(message: Message[object], session: AsyncSession) -> None:
    await effects.fail_always(message, session)
