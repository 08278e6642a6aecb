"""
Runs the migrations of the service, and leaves the tables of the outbox alone.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection

import outbox
from examples.database import connect
from examples.fastapi_service.tables import Base


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=outbox.include_name,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    engine = connect()
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


asyncio.run(main())
