"""
The tables of the handlers; `python -m examples.fhir.tables` creates them, with a subscription.
"""

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from examples.database import connect

metadata = sa.MetaData()

observations = sa.Table(
    "fhir_observations",
    metadata,
    sa.Column("full_url", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    # As text, which keeps the digits on SQLite too.
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("unit", sa.Text),
    sa.Column("effective", sa.DateTime(timezone=True), nullable=False),
)

subscriptions = sa.Table(
    "fhir_subscriptions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False, index=True),
    sa.Column("events", sa.BigInteger, nullable=False, server_default="0"),
)

notified = sa.Table(
    "fhir_notified",
    metadata,
    sa.Column("subscription", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("focus", sa.Text),
)


async def subscribe(connection: AsyncConnection, subscription: str, topic: str) -> None:
    await connection.execute(sa.insert(subscriptions).values(id=subscription, topic=topic))


async def create() -> None:
    engine = connect()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        topic = "https://example.org/SubscriptionTopic/high-glucose"
        await subscribe(connection, "Subscription/1", topic)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(create())
