"""
Dead letters for tests of replays, and a destination that records what it gets.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage import stored_message
from outbox.audit.log import Audit
from outbox.audit_tables import audit_log
from outbox.database_time import database_now, now_plus
from outbox.dead_letters.replay import Run
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.source import reading
from outbox.dead_letters.store import DeadLetters
from outbox.tables import dead_letters
from outbox.wire import codec, row_codec
from tests.support.builders import AN_INSTANT, LEAK_MARKER, an_event

SOURCE = "effects"
QUEUE = "health_data_processing.effects"


def a_dead_letter(*, age_seconds: float = 0, **changes: Any) -> dict[str, Any]:
    """The columns of a dead letter of the consumer `effects`."""
    event = an_event(occurred_at=AN_INSTANT, payload={"note": LEAK_MARKER})
    row = {**row_codec.to_row(event), "exchange": None, "content_encoding": None}
    message = codec.to_wire(row_codec.from_row(row), exchange="health_data_exchange")
    return {
        "source": SOURCE,
        "queue": QUEUE,
        "reason": "retries_exhausted",
        "attempts": 4,
        "ordering_key": None,
        **stored_message.to_columns(message),
        "last_at": now_plus(sa.literal(-age_seconds)) if age_seconds else database_now(),
        **changes,
    }


def a_dead_letter_of_the_relay(**changes: Any) -> dict[str, Any]:
    event = an_event(occurred_at=AN_INSTANT, payload={"note": LEAK_MARKER})
    row = {**row_codec.to_row(event), "exchange": None, "content_encoding": None}
    del row["not_before"]
    return {
        "source": "relay",
        "reason": "unroutable",
        "attempts": 5,
        "message_id": str(row.pop("event_id")),
        **row,
        "ordering_key": "user-" + LEAK_MARKER,
        **changes,
    }


async def write_dead_letter(engine: AsyncEngine, *rows: dict[str, Any]) -> list[int]:
    """Write *rows* into dead_letters; returns their ids."""
    ids = []
    async with engine.begin() as connection:
        for row in rows:
            statement = sa.insert(dead_letters).values(**row).returning(dead_letters.c.id)
            ids.append((await connection.execute(statement)).scalar_one())
    return ids


async def write_dead_letters(engine: AsyncEngine, count: int) -> set[str]:
    """Write *count* dead letters; returns their message ids."""
    rows = [a_dead_letter() for _ in range(count)]
    for row in rows:
        del row["last_at"]
    async with engine.begin() as connection:
        await connection.execute(sa.insert(dead_letters), rows)
    return {row["message_id"] for row in rows}


async def remaining(engine: AsyncEngine) -> list[sa.RowMapping]:
    async with reading(engine) as connection:
        rows = await connection.execute(sa.select(dead_letters).order_by(dead_letters.c.id))
        return list(rows.mappings())


async def audited(engine: AsyncEngine) -> list[tuple[str, int]]:
    """The actions in the audit log, each with its number of messages."""
    return [(row["action"], row["messages"]) for row in await audit_rows(engine)]


async def audit_rows(engine: AsyncEngine) -> list[sa.RowMapping]:
    async with reading(engine) as connection:
        rows = await connection.execute(sa.select(audit_log).order_by(audit_log.c.id))
        return list(rows.mappings())


async def a_run(
    engine: AsyncEngine,
    selection: Selection | None = None,
    *,
    source: str = SOURCE,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[int], None] = lambda _letters: None,
) -> Run:
    selection = selection or Selection()
    found = DeadLetters(source)
    async with engine.connect() as connection:
        snapshot = await found.snapshot(connection)
    return Run(
        engine=engine,
        store=found,
        snapshot=snapshot,
        audit=Audit(actor="me", because="fixed", source=source, selection=selection, run=uuid4()),
        stop=stop or asyncio.Event(),
        on_progress=on_progress,
    )


class Recorder:
    """A destination that accepts every message but those in *refused*."""

    def __init__(self, *, refused: dict[str, str] | None = None) -> None:
        self.taken: list[Any] = []
        self.runs: set[UUID] = set()
        self._refused = refused or {}

    async def ready(self) -> None:
        return

    async def send(self, _connection: Any, kept: Sequence[Any], *, run: UUID) -> list[str | None]:
        problems = [self._refused.get(letter["message_id"]) for letter in kept]
        self.taken += [letter for letter, code in zip(kept, problems, strict=True) if code is None]
        self.runs.add(run)
        return problems

    @property
    def ids(self) -> list[str]:
        return [letter["message_id"] for letter in self.taken]
