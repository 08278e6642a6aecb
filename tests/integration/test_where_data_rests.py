"""
The page on the places of data: it names every table, and its statements do what it says.
"""

import re

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox.consumer_tables import metadata
from outbox.database.engine import create_engine
from outbox.encryption import key_tables
from tests.support.builders import LEAK_MARKER
from tests.support.pages import REPOSITORY

PAGE = (REPOSITORY / "docs" / "reference" / "where-data-rests.md").read_text()
STATEMENTS = re.search(r"```sql\n(.*?)```", PAGE, re.DOTALL)
WITH_BODIES = ("outbox", "dead_letters", "parked_messages")
ROWS = {
    "outbox": "(event_id, type, routing_key, idempotency_key)"
    " SELECT gen_random_uuid(), 't', 'r', n",
    "dead_letters": "(source, reason, attempts) SELECT 's', 'r', n",
    "parked_messages": "(consumer, lane, attempts) SELECT 'c', 'l', n",
}


@pytest.mark.parametrize("table", [*metadata.tables, *key_tables.metadata.tables])
def test_the_page_names_each_table(table):
    assert f"`{table}`" in PAGE


@pytest.mark.parametrize("table", WITH_BODIES)
async def test_the_statements_remove_bodies_from_the_statistics_of_the_planner(
    postgres_url, table
):
    assert STATEMENTS is not None
    columns, values = ROWS[table].split(") ", 1)
    insert = (
        f"INSERT INTO {table} {columns}, body, headers, correlation_id)"
        f" {values}, convert_to('{LEAK_MARKER}' || n, 'utf8'), jsonb_build_object('n', n), n"
        " FROM generate_series(1, 200) AS n"
    )
    kept = sa.text(
        "SELECT attname FROM pg_stats WHERE tablename = :table"
        " AND attname IN ('body', 'headers', 'correlation_id')"
    )
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="AUTOCOMMIT")
        for statement in (insert, f"ANALYZE {table}", f"DELETE FROM {table}", f"ANALYZE {table}"):
            await connection.exec_driver_sql(statement)
        before = (await connection.scalars(kept, {"table": table})).all()

        for statement in STATEMENTS[1].replace("outbox", table).split(";\n"):
            if statement:
                await connection.exec_driver_sql(statement)
        for statement in (insert, f"ANALYZE {table}"):
            await connection.exec_driver_sql(statement)
        after = (await connection.scalars(kept, {"table": table})).all()
    await engine.dispose()

    assert set(before) == {"body", "headers", "correlation_id"}
    assert after == []
