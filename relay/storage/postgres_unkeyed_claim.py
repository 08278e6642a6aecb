"""
The statement of a claim of rows without an ordering key in Postgres.

The statement for SQLite finds the ids of the rows first, and then reads the rows by their ids. In
Postgres that, and the sorts around it, took most of the time of a claim. Here each row is read
once, in the order of the index, and carries its columns through the sum of sizes; a large body is
only a pointer until the row is known to be claimed.
"""

from typing import Any

import sqlalchemy as sa

from outbox.tables import outbox
from relay.storage.claim_statements import (
    POSTGRES_FITS,
    READY,
    UNKEYED,
    claimed_columns,
    with_keyed_flag,
)

_ALL_BEFORE = (None, 0)
"""The rows up to the current one, as the frame of a window."""


def _claim() -> sa.Select[Any]:
    """
    The columns of `claimed_columns`, and `has_next`: whether a candidate follows the row.

    The first row is always included, and the last one may exceed the limit.
    """
    # SKIP LOCKED: the claim does not wait for rows that another claim holds. The index has the
    # order of the claim, so Postgres sorts no rows before it locks them, and LIMIT ends the scan.
    candidate = (
        sa.select(outbox, POSTGRES_FITS.label("fits"))
        .where(READY, UNKEYED, outbox.c.id > sa.bindparam("above"))
        .order_by(outbox.c.id)
        .limit(sa.bindparam("rows"))
        .with_for_update(skip_locked=True)
        .subquery("candidate")
    )
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
    return sa.select(*columns, sized.c.has_next).where(sized.c.before < sa.bindparam("bytes"))


POSTGRES_CLAIM_UNKEYED = with_keyed_flag(_claim())
