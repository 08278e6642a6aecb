"""
The tables of a run: the business rows of the application, and the effects of the consumer.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self
from uuid import UUID

import sqlalchemy as sa

from outbox_demo.run import Run


class Record(NamedTuple):
    """One row of either table."""

    message_id: UUID
    idempotency_key: str
    content_hash: str
    file_size_bytes: int


@dataclass(frozen=True, slots=True)
class Tables:
    """
    The business rows and the effects of one run, in tables with the id of the run.

    *effects* has no unique key but its row number: an event that is applied twice has two rows.
    """

    uploads: sa.Table
    effects: sa.Table

    @classmethod
    def of(cls, run: Run) -> Self:
        """The tables of *run*."""
        metadata = sa.MetaData()
        return cls(
            sa.Table(f"demo_uploads_{run.id}", metadata, *_columns()),
            sa.Table(f"demo_effects_{run.id}", metadata, *_columns()),
        )

    @property
    def metadata(self) -> sa.MetaData:
        """Both tables, to be created and dropped."""
        return self.uploads.metadata


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("record_type", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("file_size_bytes", sa.BigInteger, nullable=False),
    ]


def records(table: sa.Table) -> sa.Select[Any]:
    """All rows of *table*, as the fields of `Record`."""
    return sa.select(*(table.c[name] for name in Record._fields))
