"""
The protocol of a database of the outbox. Implementations: `postgres.py`, `sqlite.py`.

To add one, implement `OutboxStore` and run `tests/contracts/test_outbox_store.py` on it.

Every method raises DatabaseUnavailable if the database cannot be reached, and no other error.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from relay.event_group import EventGroup
from relay.row import Row
from relay.verdict import Verdict

MEASURED_ROWS = 10_000
"""The most rows that a measurement reads: of those that are ready, with and without a key, and of
those that wait, each."""


@dataclass(frozen=True, slots=True)
class Claim:
    """
    Rows that no other claim holds until this one ends.

    A claim that ends without being settled changes no row.

    Args:
        rows: The rows to publish: urgent ones first, else in order of insertion.
        more: Whether another claim may find rows right now.

    """

    rows: Sequence[Row]
    more: bool
    _settle: Callable[[Sequence[Verdict]], Awaitable[Sequence[Verdict]]] = field(repr=False)

    async def settle(self, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """
        Apply all *verdicts* in one transaction, or none of them. Call it at most once.

        If the database refuses some rows, the others are settled and those are set aside. Returns
        the verdicts that were applied.
        """
        return await self._settle(verdicts)


@dataclass(frozen=True, slots=True)
class Backlog:
    """
    The rows in the outbox.

    Args:
        rows: The number of rows; an estimate where many rows would take long to count.
        oldest_ready_age: The time since the oldest row was inserted that could be published now.
        dead_tuples: Deleted rows that vacuum has not yet removed; None on SQLite.
        oldest_snapshot_age: Age of the oldest open transaction, which keeps them; None on SQLite.
        oldest_snapshot_transactions: Transactions begun since then, also where only a replication
            slot keeps the rows; None on SQLite.
        oldest_age: The time since the oldest row was inserted that should have left: all but those
            that wait because their producer wants it.
        events: The events by state, type and reason.

    """

    rows: int
    oldest_ready_age: timedelta
    dead_tuples: int | None = None
    oldest_snapshot_age: timedelta | None = None
    oldest_snapshot_transactions: int | None = None
    oldest_age: timedelta = timedelta(0)
    events: Sequence[EventGroup] = ()


class OutboxStore(Protocol):
    """The `outbox` table as the relay uses it."""

    def claim(self, *, limit: int, size: int) -> AbstractAsyncContextManager[Claim]:
        """
        Claim at most *limit* ready rows: urgent ones first, else in order of insertion.

        While claims are full, each priority has its turn; see `priority_turns.py`.

        Their bodies have at most *size* bytes. The first row of each kind, with and without a key,
        may exceed that: otherwise a large row would never be claimed.

        The rows of an ordering key are claimed from its first row on, without gaps, and by one
        claim at a time. Under load a claim may skip a row for up to half a minute.
        """

    async def due_in(self) -> timedelta | None:
        """
        Return the time until the first waiting row is due, by the clock of the database.

        Zero if it is due now, None if no row waits.
        """

    async def promote(self) -> int:
        """Make at most 1,000 rows ready whose `not_before` has passed; returns the number."""

    async def backlog(self, *, limit: int = MEASURED_ROWS, by_route: bool = False) -> Backlog:
        """
        Measure the backlog without blocking other transactions; no claim skips a row for it.

        At most *limit* rows are read of those that are ready with a key, of those without one, and
        of those that wait. Larger numbers are estimates or lower bounds. With *by_route* the
        groups of events have their routing keys.
        """

    async def close(self) -> None:
        """Release what is kept between claims; no claim may be open."""
