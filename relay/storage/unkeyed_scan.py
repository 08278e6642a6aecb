"""
The scan of rows without an ordering key.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from relay.storage.claimed_rows import ClaimedRows, Read, to_row
from relay.storage.low_water_mark import LowWaterMark

_ID = attrgetter("id")


class UnkeyedScan:
    """
    Claims ready rows without an ordering key, in order of insertion.

    Args:
        statement: `POSTGRES_CLAIM_UNKEYED` or `SQLITE_CLAIM_UNKEYED`.
        clock: Seconds of any origin that never go back.

    """

    def __init__(self, statement: sa.Select[Any], *, clock: Callable[[], float]) -> None:
        self.low_water = LowWaterMark(clock)
        self._statement = statement
        self._clock = clock

    async def scan(
        self, read: Read, *, above: int, keyed_above: int, limit: int, size: int
    ) -> tuple[ClaimedRows, bool]:
        """
        Claim at most *limit* rows with ids above *above*, and at most *size* bytes of bodies.

        Also returns whether ready rows with a key exist above *keyed_above*: the same statement
        checks it, to save a round trip.
        """
        began = self._clock()
        result = await read(
            self._statement,
            {"above": above, "keyed_above": keyed_above, "rows": limit, "bytes": size},
        )
        rows = [to_row(values) for values in result if values["id"] is not None]
        # Nearly always they are in order already: to sort them costs less here than in a database.
        rows.sort(key=_ID)
        is_cut_short = bool(rows) and bool(rows[-1].values["has_next"])
        more = is_cut_short or len(rows) == limit
        last = rows[-1].id if rows else None
        if last is not None and more:
            self.low_water.stopped_at(last, above=above, began=began)
        else:
            self.low_water.exhausted(above=above, last=last, began=began)
        claimed = ClaimedRows(rows, more=more, released=is_cut_short)
        return claimed, bool(result[0]["has_keyed"])
