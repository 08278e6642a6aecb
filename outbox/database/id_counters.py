"""
Checking that the counters of ids are not behind the rows.

A dump of single tables and logical replication copy rows, but not the state of sequences. New rows
of such a copy would get lower ids than rows that wait, and ids are the order of publication.
SQLite never assigns an id below one that exists.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

_SEQUENCES = sa.text("""
SELECT wanted.name, sequence::text AS sequence,
    has_sequence_privilege(sequence, 'SELECT') AS is_readable
FROM unnest(:names) AS wanted (name)
CROSS JOIN LATERAL CAST(pg_get_serial_sequence(wanted.name, 'id') AS regclass) AS sequence
""").bindparams(sa.bindparam("names", type_=ARRAY(sa.Text)))

# The counter is read after the snapshot of the statement was taken: a row that is inserted
# meanwhile is not in the snapshot. The scan reads only index entries above the counter, so usually
# none, even where vacuum has not removed the entries of deleted rows.
_ROWS_ABOVE = """
SELECT '{table}' WHERE EXISTS (
    SELECT FROM (
        SELECT id FROM {table}
        WHERE id > (SELECT last_value - (NOT is_called)::integer FROM {sequence})
        ORDER BY id DESC LIMIT 1
    ) AS above
)
"""


async def problems(connection: AsyncConnection, tables: Iterable[sa.Table]) -> list[str]:
    """Return a line for each of *tables* whose counter of ids is behind, or cannot be read."""
    names = [table.name for table in tables]
    if connection.dialect.name != "postgresql" or not names:
        return []
    found = (await connection.execute(_SEQUENCES, {"names": names})).all()
    if problems := [line for row in found for line in _unreadable(row)]:
        return problems
    query = " UNION ALL ".join(
        _ROWS_ABOVE.format(table=row.name, sequence=row.sequence) for row in found
    )
    behind = await connection.exec_driver_sql(query)
    return [
        f"{name}: the counter of ids is behind the rows, as after a copy without sequences, and"
        " new rows would precede older ones: as the owner of the tables run"
        " SELECT outbox_repair_ids()"
        for name in behind.scalars()
    ]


def _unreadable(row: sa.Row[Any]) -> Iterator[str]:
    if row.sequence is None:
        yield (
            f"{row.name}: the column id has no counter, as after a copy without its definition:"
            " restore the table from the schema of `relay migrate`"
        )
    elif not row.is_readable:
        yield f"no privilege: GRANT SELECT ON SEQUENCE {row.sequence}"
