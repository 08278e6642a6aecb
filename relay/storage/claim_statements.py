"""
The statements of a claim: they read ready rows, and no more of the table than the claim takes.

    SQLITE_CLAIM_UNKEYED                       ready rows without an ordering key
    SKIP_SCAN, SKIP_SCAN_AFTER                 keys that have ready rows, and their first rows
    POSTGRES_CLAIM_KEYED, SQLITE_CLAIM_KEYED   the first rows of those keys

Postgres has a cheaper statement for rows without a key, in `postgres_unkeyed_claim.py`.

Rows without a key are read in order of insertion, from an index that holds no other rows.

Of a key only the first row may be published, and its later rows follow it. A key may have any
number of rows, so the claim does not find keys by reading rows: each step of the skip scan asks
the index for the next greater key. That costs two index probes per key, whether the key has one
row or a hundred thousand, and whether they wait or not. A skip scan visits a bounded number of
keys and the next one continues behind them, so every key gets its turn.

The statement adds up the sizes of bodies before it reads them, so a batch is bounded in bytes too.
The first rows of all keys count before the second rows, so large rows of one key leave room for
the other keys.
"""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from outbox.database_time import database_now
from outbox.payload import MAX_BODY_BYTES
from outbox.tables import MAX_HEADERS_BYTES, outbox

MAX_TEXTS_BYTES = 65_536
"""All texts of a row together; the table allows less for each."""

READY = outbox.c.not_before.is_(None)
UNKEYED = outbox.c.ordering_key.is_(None)


def _size_on_sqlite(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.length(sa.cast(column, sa.LargeBinary))


_TEXTS = "type exchange routing_key idempotency_key correlation_id content_type content_encoding"
SIZED_TEXTS = [outbox.c[name] for name in (*_TEXTS.split(), "reply_to")]


def _fits(
    headers_size: sa.ColumnElement[int], text_size: Callable[[Any], sa.ColumnElement[int]]
) -> sa.ColumnElement[bool]:
    """
    Whether a row is small enough to be read; it reads sizes, and no value.

    The table refuses other rows. Where its constraints are missing, a relay that read a row of any
    size would not reach the rows behind it.
    """
    texts = (sa.func.coalesce(text_size(column), 0) for column in SIZED_TEXTS)
    return sa.and_(
        sa.func.length(outbox.c.body) <= MAX_BODY_BYTES,
        headers_size <= MAX_HEADERS_BYTES,
        reduce(operator.add, texts) <= MAX_TEXTS_BYTES,
    )


_SPECIAL = frozenset({"event_id", "last_error"})
POSTGRES_FITS = _fits(sa.func.pg_column_size(outbox.c.headers), sa.func.octet_length)
SQLITE_FITS = _fits(_size_on_sqlite(outbox.c.headers), _size_on_sqlite)


def _measured(fits: sa.ColumnElement[bool]) -> list[sa.ColumnElement[Any]]:
    """The columns of a candidate: its id, whether it *fits*, and the bytes that will be read."""
    size = sa.case((fits, sa.func.length(outbox.c.body)), else_=0)
    return [outbox.c.id, fits.label("fits"), size.label("size")]


def claimed_columns(
    fits: sa.ColumnElement[bool], rows: sa.FromClause = outbox
) -> list[sa.ColumnElement[Any]]:
    """The columns of one of *rows*; those that may be large are null unless the row *fits*."""
    # As text: most events have no headers, and to decode none costs as much as to decode some.
    large: dict[str, sa.ColumnElement[Any]] = {
        column.name: rows.c[column.name] for column in (*SIZED_TEXTS, outbox.c.body)
    }
    large["headers"] = sa.cast(rows.c.headers, sa.Text)
    others = [rows.c[c.name] for c in outbox.c if c.name not in {*_SPECIAL, *large}]
    is_expired = rows.c.expires_at <= database_now()
    return [
        *others,
        is_expired.label("is_expired"),
        # As stored: SQLite accepts values of any type, and `row_codec` checks them.
        sa.type_coerce(rows.c.event_id, sa.types.NULLTYPE).label("event_id"),
        *(
            sa.type_coerce(sa.case((fits, column)), sa.types.NULLTYPE).label(name)
            for name, column in large.items()
        ),
    ]


def _unkeyed_candidates(fits: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Uses the index outbox_ready, which holds neither rows that wait nor rows with a key."""
    return (
        sa.select(*_measured(fits), sa.literal(1).label("position"))
        .where(READY, UNKEYED, outbox.c.id > sa.bindparam("above"))
        .order_by(outbox.c.id)
        .limit(sa.bindparam("rows"))
    )


def _position_in_key(rows: sa.FromClause) -> sa.ColumnElement[int]:
    """The number of a row among the rows of its key, from 1 on."""
    return (
        sa.func.row_number()
        .over(partition_by=rows.c.ordering_key, order_by=rows.c.id)
        .label("position")
    )


def _limited_by_size(candidates: sa.Select[Any]) -> sa.Select[Any]:
    """
    The rows of *candidates* (`_measured` and position) in order of insertion, at most `bytes`.

    Lower positions count first. The first row is always included, and the last one may exceed the
    limit. The column `has_next` is true if a candidate follows, `candidates` is their number.
    """
    candidate = candidates.cte("candidate")
    order = (candidate.c.position, candidate.c.id)
    before = sa.func.sum(candidate.c.size).over(order_by=order) - candidate.c.size
    sized = sa.select(
        candidate.c.id,
        candidate.c.position,
        candidate.c.fits,
        before.label("before"),
        sa.func.lead(candidate.c.id).over(order_by=order).is_not(None).label("has_next"),
        sa.func.count().over().label("candidates"),
    ).subquery("sized")
    return (
        sa.select(
            *claimed_columns(sized.c.fits), sized.c.position, sized.c.has_next, sized.c.candidates
        )
        .select_from(sized.join(outbox, outbox.c.id == sized.c.id))
        .where(sized.c.before < sa.bindparam("bytes"))
        .order_by(outbox.c.id)
    )


def with_keyed_flag(rows: sa.Select[Any]) -> sa.Select[Any]:
    """
    *rows*, with the column `has_keyed`: whether a ready row with a key exists above the hint.

    Without any rows the result has one row that holds only the flag. The flag costs one probe of
    outbox_ready_keyed, and saves the keyed scan where no event has a key.
    """
    other = outbox.alias("other")
    has_keyed = sa.exists().where(
        other.c.not_before.is_(None),
        other.c.ordering_key.is_not(None),
        other.c.id > sa.bindparam("keyed_above"),
    )
    flag = sa.select(has_keyed.label("has_keyed")).subquery("flag")
    claimed = rows.subquery("claimed")
    return sa.select(claimed, flag.c.has_keyed).select_from(flag.outerjoin(claimed, sa.true()))


def _skip_scan(*, after: bool) -> sa.Select[Any]:
    """
    At most `keys` keys with ready rows above the hint, in index order, and the first row of each.

    The first row decides: while it waits, the ready rows behind it wait too. So the hint does not
    apply to it. Uses the indexes outbox_ready_key (keys) and outbox_ordering_key (first rows).
    """
    ready, earliest, head = (outbox.alias(name) for name in ("ready", "earliest", "head"))
    keys_in_order = (
        sa.select(ready.c.ordering_key)
        .where(
            ready.c.not_before.is_(None),
            ready.c.ordering_key.is_not(None),
            # A column of the index: dead rows below the hint are skipped without a read of the
            # table.
            ready.c.id > sa.bindparam("keyed_above"),
        )
        .order_by(ready.c.ordering_key)
        .limit(1)
    )
    start = keys_in_order
    if after:
        start = keys_in_order.where(ready.c.ordering_key > sa.bindparam("after"))
    key = sa.select(sa.literal(1).label("number"), start.scalar_subquery().label("key")).cte(
        "key", recursive=True
    )
    following = keys_in_order.where(ready.c.ordering_key > key.c.key).scalar_subquery()
    key = key.union_all(
        sa.select(key.c.number + 1, following).where(
            key.c.key.is_not(None), key.c.number < sa.bindparam("keys")
        )
    )
    first = (
        sa.select(sa.func.min(earliest.c.id))
        .where(earliest.c.ordering_key == key.c.key)
        .scalar_subquery()
    )
    return (
        sa.select(key.c.key, head.c.id, head.c.not_before.is_(None).label("ready"))
        .select_from(key.join(head, head.c.id == first))
        .order_by(key.c.number)
    )


SKIP_SCAN = _skip_scan(after=False)
SKIP_SCAN_AFTER = _skip_scan(after=True)

# One index range per key, however many rows the key has or had.
_postgres_head = (
    sa.func.unnest(
        sa.bindparam("keys", type_=ARRAY(sa.Text)),
        sa.bindparam("heads", type_=ARRAY(sa.BigInteger)),
    )
    .table_valued("key", "id")
    .render_derived()
)
_of_key = (
    sa.select(*_measured(POSTGRES_FITS), outbox.c.ordering_key)
    .where(outbox.c.ordering_key == _postgres_head.c.key, outbox.c.id >= _postgres_head.c.id)
    .order_by(outbox.c.id)
    .limit(sa.bindparam("rows"))
    .lateral("of_key")
)
_POSTGRES_KEYED_CANDIDATES = sa.select(
    _of_key.c.id, _of_key.c.fits, _of_key.c.size, _position_in_key(_of_key)
).select_from(_postgres_head.join(_of_key, sa.true()))

# SKIP LOCKED: the claim does not wait for rows that another claim holds.
POSTGRES_CLAIM_KEYED = _limited_by_size(_POSTGRES_KEYED_CANDIDATES).with_for_update(
    skip_locked=True, of=outbox
)

_sqlite_head_id = sa.func.json_each(sa.bindparam("heads", type_=sa.Text)).table_valued("value")
_sqlite_head, _first = outbox.alias("head"), outbox.alias("first")
_SQLITE_KEYED_CANDIDATES = (
    sa.select(*_measured(SQLITE_FITS), _position_in_key(outbox))
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
SQLITE_CLAIM_UNKEYED = with_keyed_flag(_limited_by_size(_unkeyed_candidates(SQLITE_FITS)))
SQLITE_CLAIM_KEYED = _limited_by_size(_SQLITE_KEYED_CANDIDATES)
