"""
Other people in a simulated database: rows that they insert into the outbox, and rows they keep.

Their rows are hostile: values that no producer of the product writes. The database refuses a row,
or the relay publishes or dead-letters it, or it waits because it has no route. In no case does
another row suffer.
"""

import asyncio
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from tests.reliability.checker import Finding
from tests.reliability.history import DeadLettered, Published, Record, Waiting, of_kind
from tests.reliability.simulation.handlers import PLAIN
from tests.reliability.simulation.sqlite_clock import follow_the_loop

_NO_TEXT = "CAST(x'ff41' AS TEXT)"
_LARGEST_INTEGER = 2**31 - 1
_WITHOUT_ROUTE = {"routing_key": "'nowhere'"}

HOSTILE_ROWS = {
    **{
        f"{column}_is_no_text": {column: _NO_TEXT}
        for column in (
            "type",
            "routing_key",
            "ordering_key",
            "idempotency_key",
            "correlation_id",
            "content_type",
            "content_encoding",
        )
    },
    "id_zero": {"id": "0"},
    "id_negative": {"id": "(SELECT min(-1, coalesce(min(id), 0) - 1) FROM outbox)"},
    "attempts_at_the_end": {"attempts": str(_LARGEST_INTEGER), **_WITHOUT_ROUTE},
    "headers_are_no_json": {"headers": "'{'"},
    "headers_are_a_list": {"headers": "'[1]'"},
    "type_empty": {"type": "''"},
    "routing_key_too_long": {"routing_key": f"'{'a' * 300}'"},
    "content_type_is_none": {"content_type": "'no type'"},
    "content_encoding_unknown": {"content_encoding": "'zip'"},
    "occurred_at_is_no_time": {"occurred_at": "'yesterday'"},
    "created_at_is_no_time": {"created_at": "'yesterday'"},
    "body_is_text": {"body": "'{}'"},
    "body_is_no_json": {"body": "x'ff'"},
    "idempotency_key_empty": {"idempotency_key": "''"},
}
"""Hostile rows by name: SQL expressions by column."""

KEPT_ROWS = (
    "CREATE TABLE kept_rows (event_id TEXT PRIMARY KEY)",
    # `note_refusal` counts, and returns 1.
    """
    CREATE TRIGGER keep_rows BEFORE DELETE ON outbox
    WHEN old.event_id IN (SELECT event_id FROM kept_rows) AND note_refusal()
    BEGIN SELECT RAISE(ABORT, 'other people keep this row'); END
    """,
)
"""A trigger of other people, which lets no row be deleted that is named in a table of theirs."""

INTEGERS = (
    f"""
    CREATE TRIGGER attempts_are_an_integer BEFORE UPDATE OF attempts ON outbox
    WHEN new.attempts > {_LARGEST_INTEGER}
    BEGIN SELECT RAISE(ABORT, 'integer out of range'); END
    """,
)
"""Makes `attempts` an integer of 32 bits, as it is on Postgres."""

_LOOK_AGAIN_SECONDS = 0.01


@dataclass(slots=True)
class OtherPeople:
    """
    Other people who use the database at *path*.

    Args:
        rows: The hostile rows that the database has accepted: their kinds, by event id.
        kept: The ids of the events whose rows they have ever kept.

    """

    path: Path
    rows: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)

    async def insert(self, kind: str, id_: UUID) -> bool:
        """Insert a hostile row of *kind*; returns whether the database has accepted it."""
        values = {
            "event_id": f"'{id_.hex}'",
            "type": f"'{PLAIN}'",
            "routing_key": f"'{PLAIN}'",
            "idempotency_key": f"'{id_}'",
            "body": "x'7b7d'",
            **HOSTILE_ROWS[kind],
        }
        statement = (
            f"INSERT INTO outbox ({', '.join(values)}) VALUES ({', '.join(values.values())})"
        )
        try:
            await self._execute(statement)
        except sqlite3.IntegrityError:
            return False
        self.rows[str(id_)] = kind
        return True

    async def keep(self, id_: str) -> None:
        """Add a trigger that refuses to delete the row of the event *id_*."""
        self.kept.add(id_)
        await self._execute("INSERT OR IGNORE INTO kept_rows VALUES (?)", UUID(id_).hex)

    async def release(self) -> None:
        """Let the relay delete every row again; it may have set some aside for a day."""
        await self._execute("DELETE FROM kept_rows")

    async def _execute(self, statement: str, *parameters: str) -> None:
        with closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as connection:
            follow_the_loop(connection)
            while True:
                try:
                    connection.execute(statement, parameters)
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error):
                        raise
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                else:
                    return

    def without(self, history: Sequence[Record]) -> list[Record]:
        """The *history* of all events but the hostile ones."""
        return [record for record in history if getattr(record, "id", None) not in self.rows]

    def findings(self, history: Sequence[Record], *, drained: bool) -> Iterator[Finding]:
        """Hostile rows that are nowhere, and, if *drained*, those that still wait with a route."""
        waiting = {each.id for each in of_kind(history, Waiting) if each.where == "outbox"}
        gone = {each.id for each in of_kind(history, Published, DeadLettered)}
        routed = {id_ for id_, kind in self.rows.items() if not _is_without_route(kind)}
        yield from self._finding("lost", self.rows.keys() - waiting - gone)
        if drained:
            yield from self._finding("backlog", waiting & routed)

    def neighbours(self, set_aside: Collection[str]) -> Iterator[Finding]:
        """Rows that were *set_aside*, although no other people had a hand in them."""
        if wrong := sorted(set(set_aside) - self.kept - self.rows.keys()):
            yield Finding("neighbour", f"set aside beside a kept row: {', '.join(wrong)}")

    def _finding(self, rule: str, ids: Collection[str]) -> Iterator[Finding]:
        if kinds := sorted({self.rows[id_] for id_ in ids}):
            yield Finding(rule, f"hostile rows: {', '.join(kinds)}")


def _is_without_route(kind: str) -> bool:
    return _WITHOUT_ROUTE.items() <= HOSTILE_ROWS[kind].items()
