"""
The scan of rows with an ordering key: a skip scan finds keys, then their first rows are claimed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias

import sqlalchemy as sa

from outbox.event import Priority
from relay.row import Row
from relay.storage.claimed_rows import ClaimedRows, Read, to_row
from relay.storage.keyed_claim_statements import SKIP_SCAN, SKIP_SCAN_AFTER
from relay.storage.low_water_mark import LowWaterMark
from relay.storage.priority_turns import PriorityTurns
from relay.waves import rows_of_a_key

Visited: TypeAlias = tuple[Any, Any, Any]
"""A key, the id of its first row, and whether that row is ready."""


@dataclass(frozen=True, slots=True)
class KeyHeads:
    """
    First rows of keys, as far as they are ready.

    Args:
        ids: Their ids, by key.
        last: The key behind which the next skip scan begins, or None for the first key.
        urgent: The keys among them that have a ready row of high priority.

    """

    ids: Mapping[str, int]
    last: str | None
    urgent: frozenset[str] = frozenset()


NO_KEYS = KeyHeads({}, None)
_FIRST_KEY = ""


class KeyedScan:
    """
    Claims ready rows with an ordering key: of each key from its first row on, without gaps.

    A key with a ready row of high priority is urgent: its rows go first, also those in front of
    that row. Urgent keys and the others take turns, as priorities do.

    Args:
        statement: A `CLAIM_KEYED` statement of `claim_statements.py`.
        head_parameters: Turns first rows of keys into parameters of *statement*.
        clock: Seconds of any origin that never go back.

    """

    def __init__(
        self,
        statement: sa.Select[Any],
        *,
        head_parameters: Callable[[KeyHeads], dict[str, Any]],
        clock: Callable[[], float],
    ) -> None:
        self.low_water = LowWaterMark(clock)
        self._statement = statement
        self._head_parameters = head_parameters
        self._clock = clock
        self._last_key: str | None = None
        self._last_claimed: int | None = None
        self._claimed_before = 0
        self._turns = PriorityTurns()
        self._last_urgent = _FIRST_KEY
        self._missed_urgent = False

    def reserved(self, limit: int) -> int:
        """How many rows of a claim of *limit* rows to keep free for rows with a key."""
        half = limit // 2
        return half if self._missed_urgent else min(half, 2 * self._claimed_before)

    def found_no_keys(self, *, above: int, began: float) -> None:
        """A check that *began* then found no ready row with a key above *above*."""
        self.low_water.exhausted(above=above, last=self._last_claimed, began=began)
        self._claimed_before = 0
        self._missed_urgent = False

    async def scan(
        self, read: Read, *, above: int, limit: int, size: int, beside: int, has_urgent: bool
    ) -> ClaimedRows:
        """
        Claim at most *limit* rows, and at most *size* bytes of bodies.

        Reads the keys that have ready rows with ids above *above*; *beside* is the number of other
        rows in the batch, and *has_urgent* whether such rows of high priority exist.
        """
        claimed = ClaimedRows([], more=True)
        self._missed_urgent = has_urgent
        if limit:
            claimed = await self._scan(read, above, limit=limit, size=size, beside=beside)
        self._claimed_before = max(len(claimed.rows), 1)
        return claimed

    async def _scan(
        self, read: Read, above: int, *, limit: int, size: int, beside: int
    ) -> ClaimedRows:
        began = self._clock()
        after = self._last_key
        urgent, heads = await self._skip_scan(read, above, limit, after)
        if after is not None and heads == urgent == NO_KEYS:
            after = None
            urgent, heads = await self._skip_scan(read, above, limit, after)
        room = limit - len(urgent.ids)
        if room:
            self._last_key = heads.last
        # A skip scan that did not go from the first key to the last may have missed keys.
        is_complete = room > 0 and heads.last is None and after is None
        claimed = ClaimedRows([])
        heads = KeyHeads({**urgent.ids, **heads.ids}, heads.last, frozenset(urgent.ids))
        if heads.ids:
            claimed = await self._claim(read, heads, limit=limit, size=size, beside=beside)
        if is_complete and claimed.more:
            self.low_water.stopped_at(above, above=above, began=began)
        elif is_complete:
            self.low_water.exhausted(above=above, last=self._last_claimed, began=began)
        claimed = replace(claimed, more=claimed.more or not is_complete)
        rows = Counter(_class(row, heads.urgent) for row in claimed.rows)
        self._turns.claimed(rows, waiting=(Priority.NORMAL,) if claimed.more else ())
        return claimed

    async def _skip_scan(
        self, read: Read, above: int, limit: int, after: str | None
    ) -> tuple[KeyHeads, KeyHeads]:
        """The heads of urgent keys, and as many of the others as the claim then has room for."""
        visited = await read(
            SKIP_SCAN if after is None else SKIP_SCAN_AFTER,
            {
                "keyed_above": above,
                "keys": limit,
                "after": after,
                "urgent_after": self._last_urgent,
            },
        )
        found: dict[bool, list[Visited]] = {True: [], False: []}
        for row in sorted(visited, key=itemgetter("number")):
            found[bool(row["urgent"])].append((row["key"], row["id"], row["ready"]))
        urgent = key_heads(found[True], limit=limit)
        if self._turns.order()[0] is Priority.HIGH:
            self._last_urgent = urgent.last or _FIRST_KEY
            self._missed_urgent = urgent.last is not None
        else:
            self._missed_urgent = bool(urgent.ids)
            urgent = NO_KEYS
        room = limit - len(urgent.ids)
        return urgent, key_heads(found[False][:room], limit=room)

    async def _claim(
        self, read: Read, heads: KeyHeads, *, limit: int, size: int, beside: int
    ) -> ClaimedRows:
        """The rows of the keys of *heads* that no other claim holds."""
        per_key = rows_of_a_key(len(heads.ids), limit=limit, beside=beside)
        result = await read(
            self._statement,
            {**self._head_parameters(heads), "rows": per_key, "bytes": size},
        )
        rows = sorted((to_row(values) for values in result), key=attrgetter("id"))
        self._last_claimed = rows[-1].id if rows else self._last_claimed
        ready = ready_prefixes(rows)
        longest = max(Counter(row.ordering_key for row in rows).values(), default=0)
        is_cut_short = len(rows) < len(heads.ids) or result[0]["candidates"] > len(rows)
        return ClaimedRows(
            ready, more=is_cut_short or longest == per_key, released=len(ready) < len(rows)
        )


def key_heads(visited: Iterable[Visited], *, limit: int) -> KeyHeads:
    """
    The heads among the *visited* keys; pure.

    A skip scan that visited fewer than *limit* keys has reached the last key. The next one begins
    behind a key that is valid text: SQLite stores others, and they cannot be sent back to it.
    """
    keys = list(visited)
    last = None
    if len(keys) == limit:
        last = next((key for key, _, _ in reversed(keys) if _is_valid_text(key)), None)
    return KeyHeads({key: row_id for key, row_id, ready in keys if ready}, last)


def _class(row: Row, urgent: frozenset[str]) -> Priority:
    return Priority.HIGH if row.ordering_key in urgent else Priority.NORMAL


def _is_valid_text(key: Any) -> bool:
    try:
        str.encode(key)
    except (TypeError, UnicodeEncodeError):
        return False
    return True


def ready_prefixes(rows: Sequence[Row]) -> list[Row]:
    """
    The ones of *rows*, in order of insertion, that may be published now; pure.

    Of each key these are its rows from the first on, up to the first row that waits or that
    another claim holds. A held row is missing from *rows*, so the next position is too high.
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
