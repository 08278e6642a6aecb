"""
The scan of rows without an ordering key.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from outbox.event import Priority
from relay.row import Row
from relay.storage.claimed_rows import ClaimedRows, Read, to_row
from relay.storage.low_water_mark import FROM_THE_BEGINNING, LowWaterMark
from relay.storage.priority_turns import URGENT_FIRST, PriorityTurns
from relay.storage.unkeyed_claim_statements import starts

_ID = attrgetter("id")


@dataclass(frozen=True, slots=True)
class KeyedFlags:
    """
    Whether ready rows with a key exist above a hint.

    Args:
        exist: Any of them.
        are_urgent: Some of high priority.

    """

    exist: bool
    are_urgent: bool


class UnkeyedScan:
    """
    Claims ready rows without an ordering key: urgent ones first, else in order of insertion.

    Each priority has its low-water mark and its turn.

    Args:
        statements: `POSTGRES_CLAIM_UNKEYED` or `SQLITE_CLAIM_UNKEYED`.
        clock: Seconds of any origin that never go back.

    """

    def __init__(
        self, statements: Mapping[Priority, sa.Select[Any]], *, clock: Callable[[], float]
    ) -> None:
        self.low_water = {each: LowWaterMark(clock) for each in URGENT_FIRST}
        self._statements = statements
        self._turns = PriorityTurns()
        self._clock = clock

    def next_start(self) -> dict[Priority, int]:
        """The ids above which the next scan reads."""
        return {each: mark.next_start() for each, mark in self.low_water.items()}

    def may_follow(self, above: Mapping[Priority, int]) -> bool:
        """Whether a full scan may follow one above *above* that found no rows."""
        return all(
            above[each] == FROM_THE_BEGINNING or mark.may_scan_fully
            for each, mark in self.low_water.items()
        )

    def released(self) -> None:
        """Rows that were claimed before may be ready again."""
        for mark in self.low_water.values():
            mark.released()

    async def scan(
        self,
        read: Read,
        *,
        above: Mapping[Priority, int],
        keyed_above: int,
        limit: int,
        size: int,
    ) -> tuple[ClaimedRows, KeyedFlags]:
        """
        Claim at most *limit* rows with ids above *above*, and at most *size* bytes of bodies.

        Also returns whether ready rows with a key exist above *keyed_above*: the same statement
        checks it, to save a round trip.
        """
        began = self._clock()
        order = self._turns.order()
        result = await read(
            self._statements[order[0]],
            {**starts(above), "keyed_above": keyed_above, "rows": limit, "bytes": size},
        )
        rows = [to_row(values) for values in result if values["id"] is not None]
        is_cut_short = bool(rows) and bool(rows[-1].values["has_next"])
        more = is_cut_short or len(rows) == limit
        parts = _parts(rows)
        stopped = order.index(Priority(rows[-1].values["part"])) if more else len(order)
        for each in order[:stopped]:
            last = _last(parts.get(each, ()), each)
            self.low_water[each].exhausted(above=above[each], last=last, began=began)
        if more and (last := _last(parts[order[stopped]], order[stopped])) is not None:
            mark = self.low_water[order[stopped]]
            mark.stopped_at(last, above=above[order[stopped]], began=began)
        counts = {each: len(part) for each, part in parts.items()}
        self._turns.claimed(counts, waiting=order[stopped:])
        # Nearly always they are in order already: to sort them costs less here than in a database.
        for part in parts.values():
            part.sort(key=_ID)
        claimed = [row for each in URGENT_FIRST for row in parts.get(each, ())]
        flags = KeyedFlags(bool(result[0]["has_keyed"]), bool(result[0]["has_urgent"]))
        return ClaimedRows(claimed, more=more, released=is_cut_short), flags


def _parts(rows: list[Row]) -> Mapping[Priority, list[Row]]:
    """*rows* by priority; those of one priority follow each other."""
    if not rows:
        return {}
    first = rows[0].values["part"]
    if first == rows[-1].values["part"]:
        return {Priority(first): rows}
    parts: defaultdict[Priority, list[Row]] = defaultdict(list)
    for row in rows:
        parts[Priority(row.values["part"])].append(row)
    return parts


def _last(rows: Sequence[Row], priority: Priority) -> int | None:
    """
    The id up to which *rows* have all ready ones of *priority*; None if it is unknown.

    A row whose priority is none at all is claimed too, but not in the order of ids.
    """
    return rows[-1].id if rows and rows[-1].values["priority"] == priority else None
