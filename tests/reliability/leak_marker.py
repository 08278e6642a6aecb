"""
The marker that stands for health data in bodies and ordering keys, and how to find it elsewhere.
"""

from base64 import b64encode

import sqlalchemy as sa

from consumer.storage.tables import processed_messages
from tests.support import builders

LEAK_MARKER = builders.LEAK_MARKER.encode()
PRODUCT_TABLES = tuple(processed_messages.metadata.sorted_tables)

_ALLOWED_COLUMNS = {"body", "ordering_key"}


def in_base64(data: bytes, *, behind: int) -> bytes:
    """The base64 digits that depend on *data* alone, if *behind* other bytes precede it."""
    digits = b64encode(bytes(behind) + data)
    return digits[-(-behind * 8 // 6) : (behind + len(data)) * 8 // 6]


_FORMS = (
    LEAK_MARKER,
    LEAK_MARKER.hex().encode(),
    *(in_base64(LEAK_MARKER, behind=count) for count in range(3)),
)


def is_leaked_in(data: bytes) -> bool:
    """Whether *data* holds the marker: plain, in hexadecimal digits, or in base64."""
    return any(form in data for form in _FORMS)


def rows_with_leaks(table: sa.Table) -> sa.Select[tuple[bool]]:
    """Whether a row of *table* holds the marker outside of bodies and ordering keys."""
    columns = [column for column in table.c if column.name not in _ALLOWED_COLUMNS]
    text = sa.func.concat_ws(" ", *(sa.cast(column, sa.Text) for column in columns))
    leaked = sa.or_(*(text.contains(form.decode()) for form in _FORMS))
    return sa.select(sa.select(table).where(leaked).exists())
