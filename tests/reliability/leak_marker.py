"""
Health data that is planted in bodies and ordering keys, and where it must not show up.
"""

from base64 import b64encode

import sqlalchemy as sa

from consumer.storage.tables import processed_messages
from tests.support import builders

CANARY = builders.CANARY.encode()
PRODUCT_TABLES = tuple(processed_messages.metadata.sorted_tables)

_ALLOWED_COLUMNS = {"body", "ordering_key"}


def in_base64(data: bytes, *, behind: int) -> bytes:
    """The digits that tell of *data* alone, if it stands *behind* so many other bytes."""
    digits = b64encode(bytes(behind) + data)
    return digits[-(-behind * 8 // 6) : (behind + len(data)) * 8 // 6]


_FORMS = (CANARY, CANARY.hex().encode(), *(in_base64(CANARY, behind=count) for count in range(3)))


def is_leaked_in(data: bytes) -> bool:
    """Whether *data* holds it: plain, as a database's hexadecimal digits, or in base64."""
    return any(form in data for form in _FORMS)


def rows_with_leaks(table: sa.Table) -> sa.Select[tuple[bool]]:
    """Whether a row of *table* holds it outside of bodies and ordering keys."""
    columns = [column for column in table.c if column.name not in _ALLOWED_COLUMNS]
    text = sa.func.concat_ws(" ", *(sa.cast(column, sa.Text) for column in columns))
    leaked = sa.or_(*(text.contains(form.decode()) for form in _FORMS))
    return sa.select(sa.select(table).where(leaked).exists())
