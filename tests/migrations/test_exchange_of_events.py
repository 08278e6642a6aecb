"""
The migration that gives outbox_add another parameter replaces a function that programs call.
"""

import asyncio

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox.database import migrate
from outbox.database.engine import create_engine

CALL = "SELECT outbox_add('a.b', '{}', 'a.c', NULL, 'key', exchange => 'vitals')"
FORMER_CALL = "SELECT outbox_add('a.b', '{}', 'a.c', NULL, NULL, priority => 'high')"
RIGHTS = """
SELECT coalesce(has_function_privilege('outbox_writer', oid, 'execute'), false),
       (SELECT bool_or(grantee = 0) FROM aclexplode(proacl)), proconfig
FROM pg_proc WHERE proname = 'outbox_add'
"""


async def test_calls_and_rights_of_the_former_function_go_on_working(empty_postgres_url):
    engine = create_engine(make_url(empty_postgres_url), pool_size=1, application_name="test")

    async def execute(*statements: str) -> list[sa.Row]:
        async with engine.begin() as connection:
            for statement in statements:
                found = await connection.execute(sa.text(statement))
        return list(found) if found.returns_rows else []

    await asyncio.to_thread(migrate.upgrade, empty_postgres_url, "0013")
    await execute(
        "DROP ROLE IF EXISTS outbox_writer",
        "CREATE ROLE outbox_writer",
        "REVOKE ALL ON FUNCTION outbox_add FROM PUBLIC",
        "GRANT EXECUTE ON FUNCTION outbox_add TO outbox_writer",
    )
    before = await execute(RIGHTS)
    try:
        await asyncio.to_thread(migrate.upgrade, empty_postgres_url, "0014")
        assert await execute(RIGHTS) == before
        await execute(FORMER_CALL)
        await execute(CALL)
        rows = await execute("SELECT routing_key, exchange, priority FROM outbox ORDER BY id")
        assert rows == [("a.c", None, "high"), ("a.c", "vitals", "normal")]

        await asyncio.to_thread(migrate.downgrade, empty_postgres_url, "0013")
        assert await execute(RIGHTS) == before
        await execute(FORMER_CALL)
    finally:
        await execute("DROP OWNED BY outbox_writer", "DROP ROLE outbox_writer")
        await engine.dispose()
