"""
The columns that a claim reads, and the limit of their size.

    unkeyed_claim_statements   what the claims of rows without an ordering key have in common
    postgres_unkeyed_claim     the statements of such a claim in Postgres
    keyed_claim_statements     keys that have ready rows, and the first rows of those keys

The statements add up the sizes of bodies before they read them, so a batch is bounded in bytes
too.
"""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import sqlalchemy as sa

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


def measured_columns(fits: sa.ColumnElement[bool]) -> list[sa.ColumnElement[Any]]:
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


def limited_by_size(candidates: sa.Select[Any], *, kept: Sequence[str]) -> sa.Select[Any]:
    """
    The rows of *candidates* (`measured_columns` and turn) in any order, at most `bytes`.

    Lower turns count first. The first row is always included, and the last one may exceed the
    limit. The columns *kept* of the candidates are columns of the rows too. The column `has_next`
    is true if a candidate follows, `candidates` is their number.
    """
    candidate = candidates.cte("candidate")
    by_turn = (candidate.c.turn, candidate.c.id)
    before = sa.func.sum(candidate.c.size).over(order_by=by_turn) - candidate.c.size
    sized = sa.select(
        *candidate.c,
        before.label("before"),
        sa.func.lead(candidate.c.id).over(order_by=by_turn).is_not(None).label("has_next"),
        sa.func.count().over().label("candidates"),
    ).subquery("sized")
    return (
        sa.select(
            *claimed_columns(sized.c.fits),
            *(sized.c[name] for name in (*kept, "has_next", "candidates")),
        )
        .select_from(sized.join(outbox, outbox.c.id == sized.c.id))
        .where(sized.c.before < sa.bindparam("bytes"))
    )
