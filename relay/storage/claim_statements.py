"""
What a claim reads: the ready rows, never more of the table than it takes.

Rows without a key are read in order of insertion from an index that holds only them.

Of rows with a key only the first of the key may go, and the rows behind it follow it. A key may
have any number of rows, so keys are not found by reading rows: each step of `visit` asks the
index for the next greater key. A visit costs two probes a key, whether the key has one row or a
hundred thousand, and whether they wait or not. A claim visits a bounded number of keys and the
next one goes on where it ended, so that every key has its turn.

Bodies are summed up before they are read, so that a batch is bounded in bytes too. Of keys the
first rows count first, so that large rows of one key leave room for the others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from outbox.tables import outbox
from relay.row import Row

READY = outbox.c.not_before.is_(None)
UNKEYED = outbox.c.ordering_key.is_(None)
SIZE = sa.func.length(outbox.c.body).label("size")

CLAIMED = (
    *(column for column in outbox.c if column.name not in {"headers", "last_error"}),
    # As text: most events have no headers, and to decode none costs as much as to decode some.
    sa.cast(outbox.c.headers, sa.Text).label("headers"),
)


# Served by outbox_ready: rows that wait and rows with a key are not in that index.
UNKEYED_CANDIDATES = (
    sa.select(outbox.c.id, SIZE, sa.literal(1).label("position"))
    .where(READY, UNKEYED, outbox.c.id > sa.bindparam("above"))
    .order_by(outbox.c.id)
    .limit(sa.bindparam("rows"))
)


def position_in_key(rows: sa.FromClause) -> sa.ColumnElement[int]:
    """The number of a row among those of its key, from 1 on."""
    return (
        sa.func.row_number()
        .over(partition_by=rows.c.ordering_key, order_by=rows.c.id)
        .label("position")
    )


def measured(candidates: sa.Select[Any]) -> sa.Select[Any]:
    """
    The rows of *candidates* (id, size, position) in order of insertion, until they have `bytes`
    bytes.

    Lower positions come first. The first row always comes, and the last one may go beyond. The
    column `found` says how many candidates there were.
    """
    candidate = candidates.cte("candidate")
    order = (candidate.c.position, candidate.c.id)
    before = sa.func.sum(candidate.c.size).over(order_by=order) - candidate.c.size
    sized = sa.select(
        candidate.c.id,
        candidate.c.position,
        before.label("before"),
        sa.func.count().over().label("found"),
    ).subquery("sized")
    return (
        sa.select(*CLAIMED, sized.c.position, sized.c.found)
        .select_from(sized.join(outbox, outbox.c.id == sized.c.id))
        .where(sized.c.before < sa.bindparam("bytes"))
        .order_by(outbox.c.id)
    )


def with_news_of_keys(rows: sa.Select[Any]) -> sa.Select[Any]:
    """
    *rows*, and in the column `keyed` whether a visit is worth while; one row at least.

    Served by outbox_ready_keyed.
    """
    other = outbox.alias("other")
    keyed = sa.exists().where(
        other.c.not_before.is_(None),
        other.c.ordering_key.is_not(None),
        other.c.id > sa.bindparam("keyed_above"),
    )
    news = sa.select(keyed.label("keyed")).subquery("news")
    claimed = rows.subquery("claimed")
    return (
        sa.select(claimed, news.c.keyed)
        .select_from(news.outerjoin(claimed, sa.true()))
        .order_by(claimed.c.id)
    )


def _skip_scan(*, after: bool) -> sa.Select[Any]:
    """
    At most `visits` keys with ready rows above the hint, in the index's order, and the first row
    of each.

    The first row decides: when it waits, the ready ones behind it wait with it. So it is looked
    for without the hint. Served by outbox_ready_key (the keys) and outbox_ordering_key (their
    first rows).
    """
    ready, earliest, head = (outbox.alias(name) for name in ("ready", "earliest", "head"))
    keys_in_order = (
        sa.select(ready.c.ordering_key)
        .where(
            ready.c.not_before.is_(None),
            ready.c.ordering_key.is_not(None),
            # Looked at in the index: dead rows below are passed over without a look at the table.
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
            key.c.key.is_not(None), key.c.number < sa.bindparam("visits")
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


@dataclass(frozen=True, slots=True)
class KeyHeads:
    """
    First rows of keys that are ready.

    Args:
        ids: Their ids, by key.
        last: The key behind which the next visit begins, or None for the beginning.

    """

    ids: Mapping[str, int]
    last: str | None


NONE_LEFT = KeyHeads({}, None)


def key_heads(visited: Iterable[Sequence[Any]], *, visits: int) -> KeyHeads:
    """
    The heads among the keys that were *visited*, as (key, id of its first row, ready); pure.

    *visits* is how many the visit was allowed: fewer mean that there were no more.
    """
    keys = list(visited)
    return KeyHeads(
        {key: row_id for key, row_id, ready in keys if ready},
        keys[-1][0] if len(keys) == visits else None,
    )


def ready_prefixes(rows: Sequence[Row]) -> list[Row]:
    """
    Of *rows*, in order of insertion, those that may be published now; pure.

    That is, for each key, its rows from the first on, up to the first that waits or that another
    claim holds: such a row is not here, and those behind it have a higher position.
    """
    result = []
    taken: Counter[str] = Counter()
    for row in rows:
        key = row.ordering_key
        if key is None or row.values["not_before"] is not None:
            continue
        if row.values["position"] == taken[key] + 1:
            taken[key] += 1
            result.append(row)
    return result
