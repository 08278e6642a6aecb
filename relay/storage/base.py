"""
What the relay needs of a database. Implementations: `postgres.py`, `sqlite.py`.

To add one, implement `OutboxStore` and run `tests/contracts/test_outbox_store.py` on it.

Every method raises DatabaseUnavailable when the database cannot be reached, and only that.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from relay.row import Row
from relay.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Claim:
    """
    Rows that no other claim holds until this one ends.

    A claim that ends without being settled leaves no trace.

    Args:
        rows: What to publish, in order of insertion.
        more: Whether another claim may find something right now.

    """

    rows: Sequence[Row]
    more: bool
    _settle: Callable[[Sequence[Verdict]], Awaitable[None]] = field(repr=False)

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Carry out all *verdicts* in one transaction, or none of them. At most once a claim."""
        await self._settle(verdicts)


@dataclass(frozen=True, slots=True)
class Backlog:
    """
    What is in the outbox.

    Args:
        rows: Rows in all; where counting many takes long, many are an estimate.
        oldest_ready_age: How long ago the oldest ready row was inserted.
        dead_tuples: Deleted rows that vacuum has not yet removed; None where there are none.
        oldest_snapshot_age: Age of the oldest open snapshot, which keeps them; None likewise.

    """

    rows: int
    oldest_ready_age: timedelta
    dead_tuples: int | None = None
    oldest_snapshot_age: timedelta | None = None


class OutboxStore(Protocol):
    """The `outbox` table as the relay sees it."""

    def claim(self, *, limit: int, size: int) -> AbstractAsyncContextManager[Claim]:
        """
        Claim at most *limit* ready rows, in order of insertion.

        Their bodies have at most *size* bytes, but for one row of each kind, with and without a
        key: otherwise a large row would never be claimed.

        The rows of an ordering key are claimed from its first row on, without gaps, and by one
        claim only. Under load a row may be passed over for up to half a minute.
        """

    async def promote(self) -> int:
        """Make rows ready whose `not_before` has come, at most 1,000; returns how many."""

    async def backlog(self) -> Backlog:
        """Look at the table without holding anything up."""
