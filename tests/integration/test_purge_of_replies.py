"""
The purge of stored replies reads only those that are old enough.
"""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker

from outbox import replies
from tests.support.query_plans import recorded, rows_read

STORED = 5_000
FILL = f"""
INSERT INTO replies (correlation_id, request_id, type, expires_at)
SELECT 'visit-' || n, gen_random_uuid(), 'ask.sum', clock_timestamp() + n * interval '1 second'
FROM generate_series(1, {STORED}) AS n
"""


async def test_a_purge_does_not_read_the_replies_that_stay(server):
    async with server.connect() as connection:
        await connection.execute(sa.text(FILL))
        await connection.commit()
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text("ANALYZE replies"))
    with recorded(server) as statements:
        await replies.purge(async_sessionmaker(server), older_than=timedelta(hours=1))

    [delete] = [each for each in statements if each[0].startswith("DELETE")]
    async with server.connect() as connection:
        assert await rows_read(connection, delete) < STORED / 10
