"""
The statements of a claim of rows without an ordering key in Postgres.

The statements for SQLite find the ids of the rows first, and then read the rows by their ids. In
Postgres that, and the sorts around it, took most of the time of a claim. Here each row is read
once, in the order of the index, and carries its columns through the sum of sizes; a large body is
only a pointer until the row is known to be claimed.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from outbox.event import Priority
from outbox.tables import outbox
from relay.storage.claim_statements import POSTGRES_FITS, claimed_columns
from relay.storage.unkeyed_claim_statements import (
    BY_PRIORITY,
    has_priority,
    orders,
    part_label,
    with_keyed_flags,
)

_ALL_BEFORE = (None, 0)
"""The rows up to the current one, as the frame of a window."""


def _part(priority: Priority) -> sa.Select[Any]:
    """The candidates of one priority; without any, this costs one probe of the index."""
    # SKIP LOCKED: the claim does not wait for rows that another claim holds. The index has the
    # order of the claim, so Postgres sorts no rows before it locks them, and LIMIT ends the scan.
    rows = (
        sa.select(outbox, POSTGRES_FITS.label("fits"), part_label(priority))
        .where(has_priority(priority))
        .order_by(*BY_PRIORITY)
        .limit(sa.bindparam("rows"))
        .with_for_update(skip_locked=True)
        .subquery(priority.value)
    )
    return sa.select(rows)


def _claim(order: Sequence[Priority]) -> sa.Select[Any]:
    """
    The columns of `claimed_columns`, and `has_next`: whether a candidate follows the row.

    The first row is always included, and the last one may exceed the limit.
    """
    # Postgres reads one part after the other, and none behind the row that fills the claim.
    parts = sa.union_all(*map(_part, order)).subquery("parts")
    candidate = sa.select(parts).limit(sa.bindparam("rows")).subquery("candidate")
    size = sa.case((candidate.c.fits, sa.func.length(candidate.c.body)), else_=0)
    # Without an order Postgres adds up the rows as they come, in that of the index. With one it
    # would sort them again, because locked rows may have changed. Nothing depends on it: if others
    # than the last rows were left out, the next claim would read from the beginning.
    before = sa.func.sum(size).over(rows=_ALL_BEFORE) - size
    has_next = sa.func.lead(candidate.c.id).over(rows=_ALL_BEFORE).is_not(None)
    sized = sa.select(candidate, before.label("before"), has_next.label("has_next")).subquery(
        "sized"
    )
    columns = [c for c in claimed_columns(sized.c.fits, sized) if c.name != "not_before"]
    return sa.select(*columns, sized.c.part, sized.c.has_next).where(
        sized.c.before < sa.bindparam("bytes")
    )


POSTGRES_CLAIM_UNKEYED = {order[0]: with_keyed_flags(_claim(order)) for order in orders()}
"""By the priority that the claim begins with."""
