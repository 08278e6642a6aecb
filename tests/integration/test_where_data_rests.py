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
KEPT = sa.text(
    "SELECT attname, statistic::text AS statistic FROM pg_statistic AS statistic"
    " JOIN pg_attribute ON attrelid = starelid AND attnum = staattnum"
    " WHERE starelid = CAST(:table AS regclass)"
)
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
async def test_the_statistics_of_postgres_have_no_body_header_or_correlation_id(
    postgres_url, table
):
    columns, values = ROWS[table].split(") ", 1)
    insert = (
        f"INSERT INTO {table} {columns}, body, headers, correlation_id)"
        f" {values}, convert_to('{LEAK_MARKER}' || n, 'utf8'), jsonb_build_object('n', n),"
        f" '{LEAK_MARKER}' || n FROM generate_series(1, 200) AS n"
    )

    columns_of, texts = await kept_after(postgres_url, table, [insert, f"ANALYZE {table}"])

    assert columns_of
    assert not columns_of & {"body", "headers", "correlation_id"}
    assert LEAK_MARKER not in texts
    assert LEAK_MARKER.encode().hex() not in texts


async def test_the_statements_remove_values_of_deleted_rows_from_the_statistics(postgres_url):
    assert STATEMENTS is not None
    collected = [
        "CREATE TABLE readings (note text)",
        f"INSERT INTO readings SELECT '{LEAK_MARKER}' || n FROM generate_series(1, 200) AS n",
        "ANALYZE readings",
        "DELETE FROM readings",
        "ANALYZE readings",
    ]
    shown = [statement for statement in STATEMENTS[1].split(";\n") if statement]

    columns, texts = await kept_after(postgres_url, "readings", collected)
    assert columns == {"note"}
    assert LEAK_MARKER in texts
    assert await kept_after(postgres_url, "readings", shown) == (set(), "")


async def kept_after(url: str, table: str, statements: list[str]) -> tuple[set[str], str]:
    """The columns of *table* that have statistics after *statements*, and these as text."""
    engine = create_engine(make_url(url), pool_size=2, application_name="test")
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            await connection.exec_driver_sql(statement)
        rows = await connection.execute(KEPT, {"table": table})
        found = {row.attname: row.statistic for row in rows}
    await engine.dispose()
    return set(found), " ".join(found.values())
