"""
A claim: one scan of the rows without an ordering key, then one of the rows with a key.

Each scan keeps its low-water mark, and the keyed scan also the key at which it continues. These
are only hints: a claim without them finds the same rows, later or at a higher cost.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from relay.storage.claimed_rows import ClaimedRows, Read
from relay.storage.keyed_scan import KeyedScan
from relay.storage.low_water_mark import FROM_THE_BEGINNING
from relay.storage.unkeyed_scan import UnkeyedScan


@dataclass(frozen=True, slots=True)
class Hints:
    """The ids above which the *unkeyed* and the *keyed* scan read rows."""

    unkeyed: int
    keyed: int


NO_HINTS = Hints(FROM_THE_BEGINNING, FROM_THE_BEGINNING)


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
        self.unkeyed.low_water.released()
        self.keyed.low_water.released()

    async def select(self, read: Read, *, limit: int, size: int) -> ClaimedRows:
        """Claim at most *limit* rows and *size* bytes of bodies; see `OutboxStore.claim`."""
        hints = Hints(self.unkeyed.low_water.next_start(), self.keyed.low_water.next_start())
        claimed = await self._scan(read, hints, limit=limit, size=size)
        if claimed.rows or hints == NO_HINTS:
            return claimed
        # No ready rows exist, or the hints skipped them. A scan without a hint skipped none, and
        # its own time is no reason to wait with the other one.
        if all(
            above == FROM_THE_BEGINNING or scan.low_water.may_scan_fully
            for above, scan in ((hints.unkeyed, self.unkeyed), (hints.keyed, self.keyed))
        ):
            return await self._scan(read, NO_HINTS, limit=limit, size=size)
        return replace(claimed, more=True)

    async def _scan(self, read: Read, above: Hints, *, limit: int, size: int) -> ClaimedRows:
        began = self._clock()
        # Neither kind starves the other: the next claim has room for twice as many keyed rows.
        reserved = self.keyed.reserved(limit)
        unkeyed, has_keyed = await self.unkeyed.scan(
            read,
            above=above.unkeyed,
            keyed_above=above.keyed,
            limit=limit - reserved,
            size=max(size // 2, 1) if reserved else size,
        )
        if not has_keyed:
            self.keyed.found_no_keys(above=above.keyed, began=began)
            return unkeyed
        used = sum(len(row.values["body"] or b"") for row in unkeyed.rows)
        keyed = await self.keyed.scan(
            read,
            above=above.keyed,
            limit=limit - len(unkeyed.rows),
            size=max(size - used, 1),
            beside=len(unkeyed.rows),
        )
        return ClaimedRows(
            sorted(unkeyed.rows + keyed.rows, key=lambda row: row.id),
            more=unkeyed.more or keyed.more,
            released=unkeyed.released or keyed.released,
        )
