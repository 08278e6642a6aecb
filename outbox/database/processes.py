"""
The register of running processes: every statement on the table `outbox_processes`.

Each process writes only its own row, by the primary key, so no process waits for another one.
All times are those of the database's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engine import NOT_DURABLE
from outbox.database_time import database_now, now_plus
from outbox.tables import outbox_processes

Role: TypeAlias = Literal["relay", "consumer"]

RIGHTS_OF_PROCESS = ("SELECT", "INSERT", "UPDATE", "DELETE")
REPLACED_AFTER = timedelta(minutes=1)
"""How long a process is silent until one of its name, when it stops, counts as its successor."""

FORGOTTEN_AFTER = timedelta(days=1)
"""How long the row of a process stays that has ended without deleting it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """
    A running process.

    Args:
        name: `relay`, or the name of the consumer.

    """

    id: UUID
    role: Role
    name: str
    host: str
    pid: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredProcess:
    """
    A row of the register.

    Args:
        uptime: From the start of the process to its last update.
        unseen: The time since its last update.
        waiting_for: The dependencies that were unavailable then; None if it worked.
        figures: What it reports of its work; see `outbox.runtime.figures`.

    """

    role: str
    name: str
    host: str
    pid: int
    version: str
    uptime: timedelta
    unseen: timedelta
    waiting_for: str | None
    figures: Any


async def add(
    engine: AsyncEngine,
    process: Process,
    *,
    waiting_for: str | None = None,
    figures: Mapping[str, Any],
) -> None:
    """
    Add *process*, and delete the rows of those that have ended without doing so.

    They are those that were not seen for `FORGOTTEN_AFTER`, and one with the same process id on
    the same host: in a container that is restarted, each process has the id of the one before.
    """
    column = outbox_processes.c
    is_predecessor = sa.and_(
        column.role == process.role,
        column.name == process.name,
        column.host == process.host,
        column.pid == process.pid,
    )
    is_forgotten = column.seen_at < now_plus(sa.literal(-FORGOTTEN_AFTER.total_seconds()))
    gone = sa.delete(outbox_processes).where(is_predecessor | is_forgotten)
    row = {
        "id": process.id,
        "role": process.role,
        "name": process.name,
        "host": process.host,
        "pid": process.pid,
        "version": process.version,
        "waiting_for": waiting_for,
        "figures": dict(figures),
    }
    async with engine.connect() as connection:
        await _quickly(connection)
        await connection.execute(gone)
        await connection.execute(sa.insert(outbox_processes).values(row))
        await connection.commit()


async def update(
    engine: AsyncEngine, id_: UUID, *, waiting_for: str | None, figures: Mapping[str, Any]
) -> bool:
    """Record that a process runs; returns whether it has a row."""
    seen = (
        sa.update(outbox_processes)
        .where(outbox_processes.c.id == id_)
        .values(seen_at=database_now(), waiting_for=waiting_for, figures=dict(figures))
    )
    async with engine.connect() as connection:
        await _quickly(connection)
        updated = await connection.execute(seen)
        await connection.commit()
    return updated.rowcount == 1


async def remove(engine: AsyncEngine, process: Process) -> None:
    """
    Delete the row of a *process* that stops, and the rows of those that it has replaced.

    They have its name, and were not seen for `REPLACED_AFTER`: they were killed, and would be
    taken for processes that have just gone.
    """
    column = outbox_processes.c
    was_replaced = sa.and_(
        column.role == process.role,
        column.name == process.name,
        column.seen_at < now_plus(sa.literal(-REPLACED_AFTER.total_seconds())),
    )
    gone = sa.delete(outbox_processes).where((column.id == process.id) | was_replaced)
    async with engine.connect() as connection:
        await _quickly(connection)
        await connection.execute(gone)
        await connection.commit()


async def registered(connection: AsyncConnection) -> list[RegisteredProcess]:
    """Return all processes, those of a name together and the newest first."""
    column = outbox_processes.c
    rows = await connection.execute(
        sa.select(
            column.role,
            column.name,
            column.host,
            column.pid,
            column.version,
            column.started_at,
            column.seen_at,
            column.waiting_for,
            column.figures,
            database_now().label("now"),
        ).order_by(column.role.desc(), column.name, column.started_at.desc(), column.id)
    )
    return [
        RegisteredProcess(
            role=row.role,
            name=row.name,
            host=row.host,
            pid=row.pid,
            version=row.version,
            uptime=max(row.seen_at - row.started_at, timedelta(0)),
            unseen=max(row.now - row.seen_at, timedelta(0)),
            waiting_for=row.waiting_for,
            figures=row.figures,
        )
        for row in rows
    ]


async def _quickly(connection: AsyncConnection) -> None:
    """
    Begin no transaction on Postgres, and wait for no disk on SQLite.

    A row that a loss of power has undone would belong to a process that has ended with it.
    """
    is_postgres = connection.dialect.name == "postgresql"
    options: Mapping[str, Any] = {"isolation_level": "AUTOCOMMIT"} if is_postgres else NOT_DURABLE
    await connection.execution_options(**options)
