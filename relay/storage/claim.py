"""
A claim: one scan of the rows without an ordering key, then one of the rows with a key.

Each scan keeps its low-water marks, and the keyed scan also the key at which it continues. These
are only hints: a claim without them finds the same rows, later or at a higher cost.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from outbox.event import Priority
from relay.row import Row
from relay.storage.claimed_rows import ClaimedRows, Read
from relay.storage.keyed_scan import KeyedScan
from relay.storage.low_water_mark import FROM_THE_BEGINNING
from relay.storage.priority_turns import URGENT_FIRST
from relay.storage.unkeyed_scan import UnkeyedScan

_NORMAL_TURN = URGENT_FIRST.index(Priority.NORMAL)
_TURNS = {each.value: turn for turn, each in enumerate(URGENT_FIRST)}


@dataclass(frozen=True, slots=True)
class Hints:
    """The ids above which the *unkeyed* scan, by priority, and the *keyed* one read rows."""

    unkeyed: Mapping[Priority, int]
    keyed: int


NO_HINTS = Hints(dict.fromkeys(URGENT_FIRST, FROM_THE_BEGINNING), FROM_THE_BEGINNING)


class Claimer:
    """
    Selects rows for the claims of one store, with the scans *unkeyed* and *keyed*.

    *clock* returns seconds of any origin that never go back.
    """

    def __init__(
        self, unkeyed: UnkeyedScan, keyed: KeyedScan, *, clock: Callable[[], float]
    ) -> None:
        self.unkeyed = unkeyed
        self.keyed = keyed
        self._clock = clock

    def released(self) -> None:
        """Rows that were claimed before may be ready again."""
        self.unkeyed.released()
        self.keyed.low_water.released()

    async def select(self, read: Read, *, limit: int, size: int) -> ClaimedRows:
        """Claim at most *limit* rows and *size* bytes of bodies; see `OutboxStore.claim`."""
        hints = Hints(self.unkeyed.next_start(), self.keyed.low_water.next_start())
        claimed = await self._scan(read, hints, limit=limit, size=size)
        if claimed.rows or hints == NO_HINTS:
            return claimed
        # No ready rows exist, or the hints skipped them. A scan without a hint skipped none, and
        # its own time is no reason to wait with the other ones.
        if self.unkeyed.may_follow(hints.unkeyed) and (
            hints.keyed == FROM_THE_BEGINNING or self.keyed.low_water.may_scan_fully
        ):
            return await self._scan(read, NO_HINTS, limit=limit, size=size)
        return replace(claimed, more=True)

    async def _scan(self, read: Read, above: Hints, *, limit: int, size: int) -> ClaimedRows:
        began = self._clock()
        # Neither kind starves the other: the next claim has room for twice as many keyed rows.
        reserved = self.keyed.reserved(limit)
        unkeyed, keyed_flags = await self.unkeyed.scan(
            read,
            above=above.unkeyed,
            keyed_above=above.keyed,
            limit=limit - reserved,
            size=max(size // 2, 1) if reserved else size,
        )
        if not keyed_flags.exist:
            self.keyed.found_no_keys(above=above.keyed, began=began)
            return unkeyed
        used = sum(len(row.values["body"] or b"") for row in unkeyed.rows)
        keyed = await self.keyed.scan(
            read,
            above=above.keyed,
            limit=limit - len(unkeyed.rows),
            size=max(size - used, 1),
            beside=len(unkeyed.rows),
            has_urgent=keyed_flags.are_urgent,
        )
        return ClaimedRows(
            sorted(unkeyed.rows + keyed.rows, key=_turn),
            more=unkeyed.more or keyed.more,
            released=unkeyed.released or keyed.released,
        )


def _turn(row: Row) -> tuple[int, int]:
    """The place of *row* in a batch: rows of a key are in order of insertion."""
    if row.ordering_key is not None:
        return _NORMAL_TURN, row.id
    return _TURNS.get(row.values["priority"], _NORMAL_TURN), row.id
