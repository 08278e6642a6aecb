"""
Two consumers, one of them ordered, whose committed effects show each message and their order.

The table has no unique key: a message that is applied twice has two rows.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import TypedDict

from consumer import Consumer, Message, Reject

PLAIN, ORDERED = "rolling.plain", "rolling.ordered"

metadata = sa.MetaData()
applied = sa.Table(
    "applied",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
)

plain = Consumer("plain", bindings=[PLAIN])
ordered = Consumer("ordered", bindings=[ORDERED], ordered=True)


class Step(TypedDict):
    """A step of a key; `fails` is how many attempts fail, and `rejected` dead-letters it."""

    key: str
    step: int
    fails: int
    rejected: bool


@plain.on(PLAIN)
@ordered.on(ORDERED)
async def apply(message: Message[Step], session: AsyncSession) -> None:
    step = message.payload
    values = {"type": message.type, "key": step["key"], "step": step["step"]}
    await session.execute(sa.insert(applied).values(values))
    if step["rejected"]:
        raise Reject("unwanted_step")
    if message.attempt <= step["fails"]:
        raise RuntimeError("as the payload says")
