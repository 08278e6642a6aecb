"""
What a claim takes: rows without a key, and if there are keys, which ones to visit and the rows of
those.

What is remembered from one claim to the next is only a hint, or whose turn it is: a claim with no
memory finds the same rows, later or at more cost.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.row import Row
from relay.storage.claim_statements import (
    NONE_LEFT,
    SKIP_SCAN,
    SKIP_SCAN_AFTER,
    KeyHeads,
    key_heads,
    ready_prefixes,
)
from relay.storage.low_water_mark import FROM_THE_BEGINNING, LowWaterMark
from relay.waves import rows_of_a_key


@dataclass(frozen=True, slots=True)
class ClaimedRows:
    """
    What a claim has found.

    Args:
        rows: In order of insertion.
        more: Whether there may be more right now.
        let_go: Whether rows are held that are not taken, and are ready again when the claim ends.

    """

    rows: list[Row]
    more: bool = False
    released: bool = False


@dataclass(frozen=True, slots=True)
class Hints:
    """The ids above which rows *unkeyed* and *keyed* are looked for."""

    unkeyed: int
    keyed: int


NO_HINTS = Hints(FROM_THE_BEGINNING, FROM_THE_BEGINNING)


class Claimer:
    """
    Selects rows for the claims of one store.

    Args:
        unkeyed: The statement for rows without a key, `ready.with_news_of_keys`.
        of_keys: The statement for rows of keys, `ready.measured`.
        parameters: Makes ids of first rows, by key, the parameters of *of_keys*.
        clock: Seconds of any origin that never go back.

    """

    def __init__(
        self,
        *,
        unkeyed: sa.Select[Any],
        of_keys: sa.Select[Any],
        parameters: Callable[[Mapping[str, int]], dict[str, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unkeyed_rows = unkeyed
        self._rows_of_keys = of_keys
        self._parameters = parameters
        self._clock = clock
        self._low_water = LowWaterMark(clock)
        self._keyed_low_water = LowWaterMark(clock)
        self._visited_until: str | None = None
        self._keyed_of_last = 0
        self._last_keyed: int | None = None

    def released(self) -> None:
        """Rows may be ready again that were claimed before."""
        self._low_water.released()
        self._keyed_low_water.released()

    async def select(self, connection: AsyncConnection, *, limit: int, size: int) -> ClaimedRows:
        """The rows of a claim."""
        hints = Hints(self._low_water.begin(), self._keyed_low_water.begin())
        found = await self._look(connection, hints, limit=limit, size=size)
        if found.rows or hints == NO_HINTS:
            return found
        # Either everything is gone, or what is there was passed over.
        if self._low_water.has_rested and self._keyed_low_water.has_rested:
            return await self._look(connection, NO_HINTS, limit=limit, size=size)
        return replace(found, more=True)

    async def _look(
        self, connection: AsyncConnection, hints: Hints, *, limit: int, size: int
    ) -> ClaimedRows:
        # Neither kind starves the other: as many rows as there were with keys may come again.
        reserved = min(limit // 2, 2 * self._keyed_of_last)
        unkeyed, there_are_keys = await self._unkeyed(
            connection,
            hints,
            limit=limit - reserved,
            size=max(size // 2, 1) if reserved else size,
        )
        if not there_are_keys:
            self._keyed_of_last = 0
            return unkeyed
        used = sum(len(row.values["body"]) for row in unkeyed.rows)
        keyed = await self._keyed(
            connection,
            hints.keyed,
            limit=limit - len(unkeyed.rows),
            size=max(size - used, 1),
            beside=len(unkeyed.rows),
        )
        self._keyed_of_last = max(len(keyed.rows), 1)
        return ClaimedRows(
            sorted(unkeyed.rows + keyed.rows, key=lambda row: row.id),
            more=unkeyed.more or keyed.more,
            released=unkeyed.released or keyed.released,
        )

    async def _unkeyed(
        self, connection: AsyncConnection, hints: Hints, *, limit: int, size: int
    ) -> tuple[ClaimedRows, bool]:
        """Rows without a key, and whether there are any with one."""
        began = self._clock()
        values = await self._read(
            connection,
            self._unkeyed_rows,
            {
                "above": hints.unkeyed,
                "keyed_above": hints.keyed,
                "rows": limit,
                "bytes": size,
            },
        )
        there_are_keys = bool(values[0]["keyed"])
        rows = [_to_row(row) for row in values if row["id"] is not None]
        candidates = values[0]["found"] or 0
        do_not_fit = candidates > len(rows)
        more = do_not_fit or candidates == limit
        if rows and more:
            self._low_water.left_some(hints.unkeyed, behind=rows[-1].id, began=began)
        else:
            last = rows[-1].id if rows else None
            self._low_water.exhausted(hints.unkeyed, last=last, began=began)
        if not there_are_keys:
            self._keyed_low_water.exhausted(hints.keyed, last=self._last_keyed, began=began)
        return ClaimedRows(rows, more=more, released=do_not_fit), there_are_keys

    async def _keyed(
        self, connection: AsyncConnection, above: int, *, limit: int, size: int, beside: int
    ) -> ClaimedRows:
        """Rows with a key, for a batch with so many others *beside* them."""
        if not limit:
            return ClaimedRows([], more=True)
        began = self._clock()
        after = self._visited_until
        heads = await self._skip_scan(connection, above, limit, after)
        if after is not None and heads == NONE_LEFT:
            after = None
            heads = await self._skip_scan(connection, above, limit, after)
        self._visited_until = heads.last
        # Until a visit has gone from the first key to the last, there may be others.
        complete = heads.last is None and after is None
        found = ClaimedRows([])
        if heads.ids:
            found = await self._of_keys(connection, heads, limit=limit, size=size, beside=beside)
        if complete and found.more:
            self._keyed_low_water.left_some(above, behind=above, began=began)
        elif complete:
            self._keyed_low_water.exhausted(above, last=self._last_keyed, began=began)
        return replace(found, more=found.more or not complete)

    async def _of_keys(
        self, connection: AsyncConnection, heads: KeyHeads, *, limit: int, size: int, beside: int
    ) -> ClaimedRows:
        """The rows of the keys of *heads*, those that other claims hold left out."""
        each = rows_of_a_key(len(heads.ids), limit=limit, beside=beside)
        values = await self._read(
            connection,
            self._rows_of_keys,
            {**self._parameters(heads.ids), "rows": each, "bytes": size},
        )
        rows = [_to_row(row) for row in values]
        self._last_keyed = max((row.id for row in rows), default=self._last_keyed)
        ready = ready_prefixes(rows)
        longest = max(Counter(row.ordering_key for row in rows).values(), default=0)
        do_not_fit = len(rows) < len(heads.ids) or values[0]["found"] > len(rows)
        return ClaimedRows(
            ready, more=do_not_fit or longest == each, released=len(ready) < len(rows)
        )

    async def _skip_scan(
        self, connection: AsyncConnection, above: int, limit: int, after: str | None
    ) -> KeyHeads:
        visited = await connection.execute(
            SKIP_SCAN if after is None else SKIP_SCAN_AFTER,
            {"keyed_above": above, "visits": limit, "after": after},
        )
        return key_heads(visited, visits=limit)

    async def _read(
        self, connection: AsyncConnection, statement: sa.Select[Any], parameters: dict[str, Any]
    ) -> list[dict[str, Any]]:
        result = await connection.execute(statement, parameters)
        columns = tuple(result.keys())
        return [dict(zip(columns, values, strict=True)) for values in result]


def _to_row(values: dict[str, Any]) -> Row:
    """A claimed row out of a database row."""
    values["headers"] = _headers(values["headers"])
    return Row(
        id=values["id"],
        ordering_key=values["ordering_key"],
        attempts=values["attempts"],
        created_at=values["created_at"],
        values=values,
    )


def _headers(text: str) -> Any:
    """
    What *text* says, if that is an object of plain values.

    Anything else is no headers of an event, and stays the text that it is: numbers may be too long
    to be read, and lists too deep to be written again.
    """
    if text == "{}":
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(value, dict) or not all(map(_is_plain, value.values())):
        return text
    return value


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int)
