"""
The statements of a claim of rows with an ordering key: they read no more than the claim takes.

    SKIP_SCAN, SKIP_SCAN_AFTER                 keys that have ready rows, and their first rows
    POSTGRES_CLAIM_KEYED, SQLITE_CLAIM_KEYED   the first rows of those keys

Of a key only the first row may be published, and its later rows follow it. A key may have any
number of rows, so the claim does not find keys by reading rows: each step of the skip scan asks
the index for the next greater key. That costs two index probes per key, whether the key has one
row or a hundred thousand, and whether they wait or not. A skip scan visits a bounded number of
keys and the next one continues behind them, so every key gets its turn.

A key that has a ready row of high priority is found by a skip scan of its own, whatever the
priority of its first row. Without such rows that costs one probe of a small index.

The first rows of all keys count before the second rows, so large rows of one key leave room for
the other keys. All rows of urgent keys count before them.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from outbox.tables import outbox
from relay.storage.claim_statements import (
    POSTGRES_FITS,
    SQLITE_FITS,
    limited_by_size,
    measured_columns,
)


def _position_in_key(rows: sa.FromClause) -> sa.ColumnElement[int]:
    """The number of a row among the rows of its key, from 1 on."""
    return (
        sa.func.row_number()
        .over(partition_by=rows.c.ordering_key, order_by=rows.c.id)
        .label("position")
    )


def _turn(rows: sa.FromClause, *, is_urgent: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    """The first rows of all keys before the second ones, behind all rows of urgent keys."""
    position = _position_in_key(rows).element
    return sa.case((is_urgent, 0), else_=position).label("turn")


def _limited(candidates: sa.Select[Any]) -> sa.Select[Any]:
    return limited_by_size(candidates, kept=("position",))


def _keys(
    name: str, after: sa.BindParameter[str] | None, *conditions: sa.ColumnElement[bool]
) -> sa.CTE:
    """At most `keys` keys with ready rows above the hint that meet *conditions*, in order."""
    keys_in_order = (
        sa.select(_ready.c.ordering_key)
        .where(
            _ready.c.not_before.is_(None),
            _ready.c.ordering_key.is_not(None),
            # A column of the index: dead rows below the hint are skipped without a read of the
            # table.
            _ready.c.id > sa.bindparam("keyed_above"),
            *conditions,
        )
        .order_by(_ready.c.ordering_key)
        .limit(1)
    )
    start = keys_in_order
    if after is not None:
        start = keys_in_order.where(_ready.c.ordering_key > after)
    key = sa.select(sa.literal(1).label("number"), start.scalar_subquery().label("key")).cte(
        name, recursive=True
    )
    following = keys_in_order.where(_ready.c.ordering_key > key.c.key).scalar_subquery()
    return key.union_all(
        sa.select(key.c.number + 1, following).where(
            key.c.key.is_not(None), key.c.number < sa.bindparam("keys")
        )
    )


def _heads(key: sa.CTE, *, are_urgent: bool) -> sa.Select[Any]:
    """
    The first row of each *key*.

    It decides: while it waits, the ready rows behind it wait too. So the hint does not apply to
    it. Uses the index outbox_ordering_key.
    """
    earliest, head = outbox.alias("earliest"), outbox.alias("head")
    first = (
        sa.select(sa.func.min(earliest.c.id))
        .where(earliest.c.ordering_key == key.c.key)
        .scalar_subquery()
    )
    return sa.select(
        key.c.number,
        key.c.key,
        head.c.id,
        head.c.not_before.is_(None).label("ready"),
        sa.literal_column("1" if are_urgent else "0", sa.Integer).label("urgent"),
    ).select_from(key.join(head, head.c.id == first))


def _skip_scan(*, after: bool) -> sa.Select[Any]:
    """
    At most `keys` keys with ready rows above the hint and as many urgent keys, each in order.

    Uses the indexes outbox_ready_key and outbox_ready_urgent_key.
    """
    urgent = _keys(
        "urgent_key",
        sa.bindparam("urgent_after", type_=sa.Text),
        _ready.c.priority == sa.literal_column("'high'"),
    )
    key = _keys("key", sa.bindparam("after", type_=sa.Text) if after else None)
    visited = sa.union_all(
        _heads(urgent, are_urgent=True), _heads(key, are_urgent=False)
    ).subquery("visited")
    # Without an order: where sorts are disabled, one more could be avoided by a worse plan.
    return sa.select(visited)


_ready = outbox.alias("ready")
SKIP_SCAN = _skip_scan(after=False)
SKIP_SCAN_AFTER = _skip_scan(after=True)

# One index range per key, however many rows the key has or had.
_postgres_head = (
    sa.func.unnest(
        sa.bindparam("keys", type_=ARRAY(sa.Text)),
        sa.bindparam("heads", type_=ARRAY(sa.BigInteger)),
        sa.bindparam("urgent", type_=ARRAY(sa.Boolean)),
    )
    .table_valued("key", "id", sa.column("urgent", sa.Boolean))
    .render_derived()
)
_of_key = (
    sa.select(*measured_columns(POSTGRES_FITS), outbox.c.ordering_key, _postgres_head.c.urgent)
    .where(outbox.c.ordering_key == _postgres_head.c.key, outbox.c.id >= _postgres_head.c.id)
    .order_by(outbox.c.id)
    .limit(sa.bindparam("rows"))
    .lateral("of_key")
)
_POSTGRES_KEYED_CANDIDATES = sa.select(
    _of_key.c.id,
    _of_key.c.fits,
    _of_key.c.size,
    _position_in_key(_of_key),
    _turn(_of_key, is_urgent=_of_key.c.urgent),
).select_from(_postgres_head.join(_of_key, sa.true()))

# SKIP LOCKED: the claim does not wait for rows that another claim holds.
POSTGRES_CLAIM_KEYED = _limited(_POSTGRES_KEYED_CANDIDATES).with_for_update(
    skip_locked=True, of=outbox
)

_sqlite_head_id = sa.func.json_each(sa.bindparam("heads", type_=sa.Text)).table_valued("value")
_sqlite_urgent_id = sa.func.json_each(sa.bindparam("urgent", type_=sa.Text)).table_valued("value")
_sqlite_head, _first = outbox.alias("head"), outbox.alias("first")
_SQLITE_KEYED_CANDIDATES = (
    sa.select(
        *measured_columns(SQLITE_FITS),
        _position_in_key(outbox),
        _turn(outbox, is_urgent=_sqlite_head.c.id.in_(sa.select(_sqlite_urgent_id.c.value))),
    )
    .select_from(
        _sqlite_head_id.join(_sqlite_head, _sqlite_head.c.id == _sqlite_head_id.c.value).join(
            outbox, sa.true()
        ),
    )
    .where(
        outbox.c.id.in_(
            sa.select(_first.c.id)
            .where(_first.c.ordering_key == _sqlite_head.c.ordering_key)
            .order_by(_first.c.id)
            .limit(sa.bindparam("rows"))
            .correlate(_sqlite_head)
        )
    )
)

# SQLite has no row locks; the docstring of `sqlite.py` explains why its claim needs none.
SQLITE_CLAIM_KEYED = _limited(_SQLITE_KEYED_CANDIDATES)
