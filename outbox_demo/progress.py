"""
The counts of a run, read from the database during the run and at its end.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engine import DEFERRED, create_engine
from outbox.database.errors import driver_errors_translated
from outbox.settings import SharedSettings
from outbox.tables import outbox
from outbox_demo.run import Run
from outbox_demo.tables import Record, Tables, records


@dataclass(frozen=True, slots=True)
class Counts:
    """
    The progress of a run.

    Args:
        committed: Business rows.
        waiting: Rows in the outbox.
        applied: Effects.

    """

    committed: int = 0
    waiting: int = 0
    applied: int = 0

    @property
    def published(self) -> int:
        """Committed events that have left the outbox."""
        return self.committed - self.waiting


class ProgressReader:
    """Reads the tables of a *run* without blocking its processes."""

    def __init__(self, engine: AsyncEngine, run: Run) -> None:
        self._engine = engine
        self._tables = Tables.of(run)
        # One statement, so all counts are from the same moment.
        self._counts = sa.select(
            _count(self._tables.uploads),
            _count(outbox, outbox.c.routing_key.startswith(run.prefix, autoescape=True)),
            _count(self._tables.effects),
        )

    async def counts(self) -> Counts:
        """The counts now."""
        async with self._reading() as connection:
            return Counts(*(await connection.execute(self._counts)).one())

    async def uploads(self) -> Sequence[Record]:
        """All business rows."""
        return await self._records(self._tables.uploads)

    async def effects(self) -> Sequence[Record]:
        """All effects."""
        return await self._records(self._tables.effects)

    async def _records(self, table: sa.Table) -> Sequence[Record]:
        async with self._reading() as connection:
            return [Record(*row) for row in await connection.execute(records(table))]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        with driver_errors_translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(**DEFERRED)
                yield connection


@asynccontextmanager
async def progress_reader(settings: SharedSettings, run: Run) -> AsyncIterator[ProgressReader]:
    """A reader for *run* on the database that *settings* name."""
    engine = create_engine(
        settings.database,
        pool_size=2,
        application_name="outbox-demo counts",
        schema=settings.database_schema,
    )
    try:
        yield ProgressReader(engine, run)
    finally:
        await engine.dispose()


def _count(table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.count()).select_from(table).where(*where).scalar_subquery()
