"""
What the statements of a claim of rows without an ordering key have in common, and those of SQLite.

Ready rows of one priority are read in order of insertion, from an index that holds no other rows.
A statement reads one priority after the other until the claim is full; there is one for each
priority to begin with.

The table allows three priorities. Where its constraint is missing, each row still belongs to one
of the three parts of the index: up to `high`, behind it up to `low`, and the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from outbox.event import Priority
from outbox.tables import outbox
from relay.storage.claim_statements import (
    READY,
    SQLITE_FITS,
    UNKEYED,
    limited_by_size,
    measured_columns,
)
from relay.storage.low_water_mark import FROM_THE_BEGINNING
from relay.storage.priority_turns import URGENT_FIRST

_LAST_ID = 2**63 - 1
_BEGINNINGS = {
    Priority.HIGH: ("", FROM_THE_BEGINNING),
    Priority.LOW: (Priority.HIGH.value, _LAST_ID),
    Priority.NORMAL: (Priority.LOW.value, _LAST_ID),
}
"""Where each part of the index begins: behind this priority and id."""

BY_PRIORITY = (outbox.c.priority, outbox.c.id)
"""The order of the index outbox_ready_priority, which no other index has."""


def starts(above: Mapping[Priority, int]) -> dict[str, Any]:
    """The parameters of a statement that reads rows with ids above *above*."""
    parameters: dict[str, Any] = {}
    for each, id_ in above.items():
        start = _BEGINNINGS[each] if id_ == FROM_THE_BEGINNING else (each.value, id_)
        parameters[f"{each.value}_from"], parameters[f"{each.value}_above"] = start
    return parameters


def orders() -> Iterator[Sequence[Priority]]:
    """The orders in which claims read the priorities: any of them, and then urgent ones first."""
    for first in URGENT_FIRST:
        yield (first, *(each for each in URGENT_FIRST if each is not first))


def has_priority(priority: Priority) -> sa.ColumnElement[bool]:
    """
    Whether a row is ready, without a key, in the part of *priority*, and above the hint.

    A comparison of rows, so that the scan begins at the hint. Equality with the priority would let
    Postgres read outbox_ready instead, and every row of another priority in front.
    """
    start = sa.tuple_(
        sa.bindparam(f"{priority.value}_from", type_=sa.Text),
        sa.bindparam(f"{priority.value}_above", type_=sa.BigInteger),
    )
    condition = READY & UNKEYED & (sa.tuple_(*BY_PRIORITY) > start)
    if priority is Priority.NORMAL:
        return condition
    return condition & (outbox.c.priority <= sa.literal_column(f"'{priority.value}'"))


def part_label(priority: Priority) -> sa.ColumnElement[str]:
    """The column `part`: the priority that a row was read for."""
    return sa.literal_column(f"'{priority.value}'", sa.Text).label("part")


def with_keyed_flags(rows: sa.Select[Any]) -> sa.Select[Any]:
    """
    *rows*, with `has_keyed` and `has_urgent`: whether ready rows with a key are above the hint.

    Without any rows the result has one row that holds only the flags. They cost a probe each of
    outbox_ready_keyed and outbox_ready_urgent_key, and save the keyed scan where no event has a
    key.
    """
    other = outbox.alias("other")
    keyed = sa.and_(
        other.c.not_before.is_(None),
        other.c.ordering_key.is_not(None),
        other.c.id > sa.bindparam("keyed_above"),
    )
    is_urgent = other.c.priority == sa.literal_column("'high'")
    flag = sa.select(
        sa.exists().where(keyed).label("has_keyed"),
        sa.exists().where(keyed, is_urgent).label("has_urgent"),
    ).subquery("flag")
    claimed = rows.subquery("claimed")
    return sa.select(claimed, flag.c.has_keyed, flag.c.has_urgent).select_from(
        flag.outerjoin(claimed, sa.true())
    )


def _sqlite_part(priority: Priority, turn: int) -> sa.Select[Any]:
    columns = measured_columns(SQLITE_FITS)
    rows = (
        sa.select(*columns, part_label(priority), sa.literal_column(str(turn)).label("turn"))
        .where(has_priority(priority))
        .order_by(*BY_PRIORITY)
        .limit(sa.bindparam("rows"))
        .subquery(priority.value)
    )
    return sa.select(rows)


def _sqlite_claim(order: Sequence[Priority]) -> sa.Select[Any]:
    parts = sa.union_all(*(_sqlite_part(each, turn) for turn, each in enumerate(order)))
    part = parts.subquery("parts")
    candidates = sa.select(part).order_by(part.c.turn, part.c.id).limit(sa.bindparam("rows"))
    rows = limited_by_size(candidates, kept=("part", "turn"))
    return rows.order_by(sa.literal_column("turn"), outbox.c.id)


# SQLite has no row locks; the docstring of `sqlite.py` explains why its claim needs none.
SQLITE_CLAIM_UNKEYED = {order[0]: with_keyed_flags(_sqlite_claim(order)) for order in orders()}
"""By the priority that the claim begins with."""
