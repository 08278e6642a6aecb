"""
The statement that measures the outbox by state; it reads a bounded number of rows, and no body.

It reads three parts, each in the order of a partial index and up to a limit, so it costs the same
whether the outbox has that many rows or ten million:

    ready rows without a key     outbox_ready          the oldest ones
    ready rows with a key        outbox_ready_keyed    the oldest ones, and the first row of each
                                                       of their keys by outbox_ordering_key
    rows that wait               outbox_due            those that are due first

It takes no lock, so no claim skips a row for it. That Postgres has locked a row for a transaction
that is still open is written in the row itself: its `xmax` is the id of that transaction.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from outbox.database_time import database_now
from outbox.tables import outbox
from outbox.validation import MAX_KEY_BYTES
from relay.measured_rows import Measured, Part
from relay.storage.claim_statements import READY, UNKEYED

_UNLOCKED = sa.false()
# Every open transaction that has changed or locked a row holds a lock on its own id, which each
# role may see. A list of ids, so that the locks are looked at once and not for each row.
POSTGRES_LOCKED: sa.ColumnElement[bool] = sa.literal_column("outbox.xmax").in_(
    sa.select(sa.literal_column("transactionid"))
    .select_from(sa.text("pg_locks"))
    .where(sa.text("locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted"))
)


def measuring(*, locked: sa.ColumnElement[bool] = _UNLOCKED, by_route: bool) -> sa.Select[Any]:
    """
    Return the statement, with the parameter `rows`: the most rows of each part that are read.

    *locked* is whether an open transaction holds a row of `outbox`. With *by_route* the rows are
    grouped by exchange and routing key, too.
    """
    keyed = _part(Part.KEYED, READY & ~UNKEYED, outbox.c.id, locked=locked).cte("keyed")
    rows = sa.union_all(
        _alone(_part(Part.UNKEYED, READY & UNKEYED, outbox.c.id, locked=locked)),
        _with_heads(keyed),
        _alone(_part(Part.WAITING, ~READY, outbox.c.not_before, locked=sa.false())),
    ).subquery("measured")
    alike = [rows.c[name] for name in _ALIKE]
    if by_route:
        alike += [rows.c.exchange, rows.c.routing_key]
    return sa.select(
        *alike,
        sa.func.count().label("rows"),
        sa.func.max(rows.c.attempts).label("attempts"),
        sa.func.min(rows.c.created_at).label("oldest"),
        sa.func.min(sa.func.coalesce(rows.c.head_not_before, rows.c.not_before)).label("next"),
        database_now().label("now"),
    ).group_by(*alike)


def measured(rows: Sequence[sa.Row[Any]]) -> list[Measured]:
    """Return the result of the statement as values."""
    return [_measured(row._mapping) for row in rows]  # noqa: SLF001 - its public name


_ALIKE = ("part", "type", "last_error", "is_due", "is_locked", "head_waits", "head_error")


def _part(
    part: Part,
    where: sa.ColumnElement[bool],
    order: sa.ColumnElement[Any],
    *,
    locked: sa.ColumnElement[bool],
) -> sa.Select[Any]:
    columns: list[sa.ColumnElement[Any]] = [
        sa.literal_column(f"'{part.value}'", sa.Text).label("part"),
        *(_short(outbox.c[name]).label(name) for name in _SHORTENED),
        (outbox.c.not_before <= database_now()).label("is_due"),
        locked.label("is_locked"),
        *(outbox.c[name] for name in ("ordering_key", "attempts", "created_at", "not_before")),
    ]
    limit = sa.bindparam("rows", type_=sa.Integer)
    return sa.select(*columns).where(where).order_by(order).limit(limit)


_SHORTENED = ("type", "last_error", "exchange", "routing_key")


def _short(column: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """*column* no longer than an event may have it: the table may hold rows of any size."""
    return sa.func.substr(column, 1, MAX_KEY_BYTES + 1, type_=sa.Text)


def _alone(rows: sa.Select[Any]) -> sa.Select[Any]:
    """*rows* that no other row blocks."""
    part = rows.subquery()
    return sa.select(
        *part.c,
        sa.false().label("head_waits"),
        sa.null().cast(sa.Text).label("head_error"),
        sa.type_coerce(sa.null(), outbox.c.not_before.type).label("head_not_before"),
    )


def _with_heads(keyed: sa.CTE) -> sa.Select[Any]:
    """The rows of *keyed*, each with what is known of the first row of its key."""
    key = sa.select(keyed.c.ordering_key).distinct().subquery("key")
    first, other = outbox.alias("first"), outbox.alias("other")
    # Mostly no row waits at all, and then ten thousand keys need not be looked at. Not with `*`,
    # which a role without the right to read bodies may not select.
    any_waits = sa.exists(other.c.id).where(other.c.not_before.is_not(None))

    def of_first(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        # By the index outbox_ordering_key; a join would read every row of the key.
        found = (
            sa.select(column)
            .where(first.c.ordering_key == key.c.ordering_key)
            .order_by(first.c.id)
            .limit(1)
        )
        return sa.case((any_waits, found.scalar_subquery()))

    # Materialized: else Postgres looks for the first row again for each row of the key.
    head = (
        sa.select(
            key.c.ordering_key,
            of_first(_short(first.c.last_error)).label("error"),
            of_first(first.c.not_before).label("not_before"),
        )
        .cte("head")
        .prefix_with("MATERIALIZED")
    )
    return sa.select(
        *keyed.c,
        head.c.not_before.is_not(None).label("head_waits"),
        head.c.error.label("head_error"),
        head.c.not_before.label("head_not_before"),
    ).select_from(keyed.join(head, head.c.ordering_key == keyed.c.ordering_key))


def _measured(row: Any) -> Measured:
    return Measured(
        part=Part(row["part"]),
        type=_text(row["type"]) or "",
        rows=row["rows"],
        last_error=_text(row["last_error"]),
        is_due=bool(row["is_due"]),
        is_locked=bool(row["is_locked"]),
        head_waits=bool(row["head_waits"]),
        head_error=_text(row["head_error"]),
        attempts=row["attempts"],
        oldest_age=max(row["now"] - row["oldest"], timedelta(0)),
        next_in=None if row["next"] is None else row["next"] - row["now"],
        exchange=_text(row.get("exchange")),
        routing_key=_text(row.get("routing_key")),
    )


def _text(value: object) -> str | None:
    """Return *value* as text: SQLite stores values of any type in columns of text."""
    if value is None or isinstance(value, str):
        return value
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
