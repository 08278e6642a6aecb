"""
In which order the rows of a batch may be published: pure.

Rows of one ordering key go one after another, each after its predecessor was acked.
Different keys, and rows without a key, go side by side.
"""

from collections import defaultdict
from collections.abc import Sequence

from relay.row import Row

SMALLEST_SHARE = 8
"""A wave goes out if it has at least one row for so many of the first."""


def is_worth_while(rows: int, *, first: int) -> bool:
    """Whether a wave of *rows* may follow one of *first* rows, which waits for it."""
    return rows * SMALLEST_SHARE >= first


def waves(rows: Sequence[Row]) -> list[list[Row]]:
    """
    Split *rows*, which are in claim order, so that no wave holds two rows of one key.

    The k-th row of a key is in wave k; rows without a key are in the first.

    The batch is settled when its last wave is confirmed. So that a few keys with many rows do not
    hold up all the others, waves that are small beside the first are left out: their rows are
    claimed again.
    """
    result: list[list[Row]] = [[]] if rows else []
    seen: dict[str, int] = defaultdict(int)
    for row in rows:
        wave = 0
        if row.ordering_key is not None:
            wave = seen[row.ordering_key]
            seen[row.ordering_key] += 1
        if wave == len(result):
            result.append([])
        result[wave].append(row)
    return [wave for wave in result if is_worth_while(len(wave), first=len(result[0]))]


MOST_ROWS_OF_A_KEY = 16
"""They are published one after another, and the rest of the batch waits to be settled."""


def rows_of_a_key(keys: int, *, limit: int, beside: int) -> int:
    """
    How many rows of each of *keys* to read, for a batch with so many rows *beside* them; pure.

    No more than can be published: each needs a wave of its own.
    """
    if not is_worth_while(keys, first=keys + beside):
        return 1
    return min(max(limit // keys, 1), MOST_ROWS_OF_A_KEY)
