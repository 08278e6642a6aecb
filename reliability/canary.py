"""
Health data that is planted in bodies and ordering keys, and where it must not show up.
"""

import sqlalchemy as sa

from consumer.tables import processed_messages
from tests.support import builders

CANARY = builders.CANARY.encode()
PRODUCT_TABLES = tuple(processed_messages.metadata.sorted_tables)

_FORMS = (CANARY, CANARY.hex().encode())
_ALLOWED_COLUMNS = {"body", "ordering_key"}


def is_leaked_in(data: bytes) -> bool:
    """Whether *data* holds it, plain or as the hexadecimal digits of a database's bytes."""
    return any(form in data for form in _FORMS)


def rows_with_leaks(table: sa.Table) -> sa.Select[tuple[bool]]:
    """Whether a row of *table* holds it outside of bodies and ordering keys."""
    columns = [column for column in table.c if column.name not in _ALLOWED_COLUMNS]
    text = sa.func.concat_ws(" ", *(sa.cast(column, sa.Text) for column in columns))
    return sa.select(sa.select(table).where(text.contains(CANARY.decode())).exists())
