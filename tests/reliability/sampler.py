"""
Samples the processes of a run, and searches its tables for leaks, while the run goes on.

Linux only: memory and file descriptors are read from /proc, at no cost for the process.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage.tables import parked_messages
from outbox.tables import outbox
from tests.reliability.history import Leaked, Record, Sampled
from tests.reliability.leak_marker import rows_with_leaks
from tests.reliability.supervisor import SupervisedProcess, Supervisor

SAMPLE_SECONDS = 0.5
TABLES_SECONDS = 2.0

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def sample(process: SupervisedProcess) -> Sampled | None:
    """The memory and descriptors of *process* now; None if it does not run."""
    if (pid := process.pid) is None:
        return None
    usage = Path(f"/proc/{pid}")
    with suppress(OSError):  # it has ended meanwhile
        pages = int((usage / "statm").read_text().split()[1])
        descriptors = len(list((usage / "fd").iterdir()))
        # Each start is a process of its own, whose memory has nothing to do with the last one's.
        name = f"{process.name} in its life {process.starts}"
        return Sampled(time.time(), name, pages * _PAGE_BYTES, descriptors)
    return None


class Sampler:
    """Samples until it is cancelled, and passes records to *write*."""

    def __init__(
        self, supervisor: Supervisor, engine: AsyncEngine, write: Callable[[Record], None]
    ) -> None:
        self._supervisor = supervisor
        self._engine = engine
        self._write = write

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sample())
            group.create_task(self._look_into_tables())

    async def _sample(self) -> None:
        while True:
            for process in self._supervisor.processes:
                if (taken := sample(process)) is not None:
                    self._write(taken)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _look_into_tables(self) -> None:
        """Search tables whose rows are short-lived, while their rows exist."""
        while True:
            with suppress(SQLAlchemyError, OSError):  # an unavailable database has no sample
                await self.look_into(outbox, parked_messages)
            await asyncio.sleep(TABLES_SECONDS)

    async def look_into(self, *tables: sa.Table) -> None:
        """Record which of *tables* hold health data in a column where none may be."""
        async with self._engine.connect() as connection:
            for table in tables:
                if await connection.scalar(rows_with_leaks(table)):
                    self._write(Leaked(time.time(), f"the table {table.name}"))
