"""
Checking the audit log against its chain, its head, and a head that was pinned elsewhere.

The log is read in pages, each in one statement together with the head, so that rows may be added
meanwhile: the last page and its head are one state of the database.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.chain import FIELDS, Head, hash_of
from outbox.audit_tables import audit_head, audit_log
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.database.privileges import Rights

RIGHTS: Rights = {audit_log: ("SELECT",), audit_head: ("SELECT",)}
PAGE = 2_000
"""Rows that are read at once."""
_LOWEST = -(2**63)


class Problem(StrEnum):
    """Why a row is not as it was recorded; *meaning* says it in words."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Return the member with its meaning."""
        made = str.__new__(cls, value)
        made._value_ = value
        made.meaning = meaning
        return made

    CHANGED = "changed", "it was changed: its hash is not that of its columns"
    NOT_CHAINED = "not_chained", "it was added without the chain, and has no hash"
    DOES_NOT_FOLLOW = (
        "does_not_follow",
        "a row before it was removed, added or moved: it was recorded behind another one",
    )
    ENDS_EARLY = "ends_early", "rows behind it were removed: the head is of a longer log"
    OTHER_HEAD = "other_head", "the head was changed: it is not that of the last row"
    OTHER_THAN_PINNED = "other_than_pinned", "the log is another one than that of the pinned head"


@dataclass(frozen=True, slots=True)
class Fault:
    """The first *problem* of a log, and the id of its row; None if there is no row."""

    problem: Problem
    id: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the log, with the texts of `FIELDS`; hashes are empty unless they are bytes."""

    id: int
    texts: Sequence[str | None]
    previous_hash: bytes
    hash: bytes | None


@dataclass(slots=True)
class Chain:
    """
    The rows that were checked so far, in their order.

    Args:
        pinned: A head that another system, or a paper, has kept; None without one.
        head: The end of what was checked.
        uncovered: Number of rows from before revision 0012, which have no hash.

    """

    pinned: Head | None = None
    head: Head = field(default_factory=Head)
    uncovered: int = 0
    last_id: int | None = None

    def add(self, row: Row) -> Fault | None:
        """Return what is wrong with the next *row*, or add it."""
        if row.hash is None:
            if self.head.rows:
                return Fault(Problem.NOT_CHAINED, row.id)
            self.uncovered += 1
            self.last_id = row.id
            return None
        if hash_of(row.previous_hash, row.texts) != row.hash:
            return Fault(Problem.CHANGED, row.id)
        if row.previous_hash != self.head.hash:
            return Fault(Problem.DOES_NOT_FOLLOW, row.id)
        self.head = Head(self.head.rows + 1, row.hash)
        self.last_id = row.id
        if self.pinned is not None and self.pinned.rows == self.head.rows:
            return Fault(Problem.OTHER_THAN_PINNED, row.id) if self._is_other() else None
        return None

    def end(self, stored: Head) -> Fault | None:
        """Return what is wrong with the end of the log, whose head is *stored*."""
        if self.head.rows < stored.rows:
            return Fault(Problem.ENDS_EARLY, self.last_id)
        if self.head != stored:
            return Fault(Problem.OTHER_HEAD, self.last_id)
        if self.pinned is not None and self.head.rows < self.pinned.rows:
            return Fault(Problem.ENDS_EARLY, self.last_id)
        return None

    def _is_other(self) -> bool:
        return self.pinned is not None and self.pinned.hash != self.head.hash


@dataclass(frozen=True, slots=True)
class Verified:
    """
    The result of a check.

    Args:
        head: The end of what is as it was recorded.
        uncovered: Number of rows from before revision 0012, which no chain covers.
        fault: The first fault, or None.

    """

    head: Head
    uncovered: int
    fault: Fault | None


async def verify(engine: AsyncEngine, *, pinned: Head | None = None) -> Verified:
    """
    Check the whole log up to its first fault, and against a *pinned* head if there is one.

    Raises DatabaseUnavailable.
    """
    chain = Chain(pinned)
    fault = None
    async for rows, stored in _pages(engine):
        fault = next((found for row in rows if (found := chain.add(row))), None)
        if fault is None and len(rows) < PAGE:
            fault = chain.end(stored)
        if fault is not None:
            break
    return Verified(chain.head, chain.uncovered, fault)


async def _pages(engine: AsyncEngine) -> AsyncIterator[tuple[list[Row], Head]]:
    """Yield the log page by page, the last one with fewer rows than PAGE; each with the head."""
    statement = _page(engine.dialect.name)
    first, is_last = _LOWEST, False
    while not is_last:
        with driver_errors_translated(refusals=False):
            async with engine.connect() as connection:
                await connection.execution_options(**DEFERRED)
                found = (await connection.execute(statement, {"first": first})).all()
        rows = [_row(each) for each in found if each.id is not None]
        stored = found[0]
        yield rows, Head() if stored.rows is None else _head(stored)
        is_last = len(rows) < PAGE
        first = rows[-1].id + 1 if rows else first


def _page(dialect: str) -> sa.Select[Any]:
    """Return the statement for the next page; it has a row without id if the page is empty."""
    page = (
        sa.select(
            audit_log.c.id,
            *(text.label(f"text_{name}") for name, text in _texts(dialect).items()),
            sa.type_coerce(audit_log.c.previous_hash, sa.types.NULLTYPE).label("previous_hash"),
            sa.type_coerce(audit_log.c.hash, sa.types.NULLTYPE).label("hash"),
        )
        .where(audit_log.c.id >= sa.bindparam("first", type_=sa.BigInteger))
        .order_by(audit_log.c.id)
        .limit(PAGE)
        .subquery("page")
    )
    one = sa.select(sa.literal(1).label("one")).subquery("one")
    stored_hash = sa.type_coerce(audit_head.c.hash, sa.types.NULLTYPE).label("head")
    # By its key: Postgres would expect many rows, and spend a second on compiling the statement.
    head = sa.select(audit_head.c.rows, stored_hash).where(audit_head.c.id == 1).subquery("stored")
    return (
        sa.select(head, page)
        .select_from(one.outerjoin(head, sa.true()).outerjoin(page, sa.true()))
        .order_by(page.c.id)
    )


def _texts(dialect: str) -> dict[str, sa.ColumnElement[str]]:
    """Return an expression for the text of each of FIELDS, as `outbox.audit.chain` says."""
    texts: dict[str, sa.ColumnElement[str]] = {
        name: sa.cast(audit_log.c[name], sa.Text) for name in FIELDS
    }
    if dialect == "postgresql":
        in_utc = sa.func.timezone("UTC", audit_log.c.at)
        texts["at"] = sa.func.to_char(in_utc, "YYYY-MM-DD HH24:MI:SS.US", type_=sa.Text)
        texts["run"] = sa.func.replace(texts["run"], "-", "", type_=sa.Text)
    return texts


def _row(found: sa.Row[Any]) -> Row:
    # After rows, head and id come the texts of FIELDS.
    texts = found[3 : 3 + len(FIELDS)]
    own_hash = None if found.hash is None else _bytes(found.hash)
    return Row(found.id, texts, _bytes(found.previous_hash), own_hash)


def _head(found: sa.Row[Any]) -> Head:
    # SQLite stores texts in columns of numbers too.
    return Head(found.rows if isinstance(found.rows, int) else -1, _bytes(found.head))


def _bytes(value: object) -> bytes:
    # SQLite stores texts and numbers in columns of blobs too.
    return value if isinstance(value, bytes) else b""
